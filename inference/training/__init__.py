"""Training by stochastic variational inference: ``fit`` runs ``epochs`` of a ``step``.

``batches`` are what a step sees, ``schedules`` the weights of the KL term, ``checkpoints`` what is kept on disk;
``compiled`` takes the step as one graph, ``whole_step`` as one CUDA graph, and ``update`` the optimizer's part of it.
"""
