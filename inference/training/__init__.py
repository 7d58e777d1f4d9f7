"""Training by stochastic variational inference: ``fit`` runs ``epochs`` of a ``step``.

``batches`` are what a step sees, ``schedules`` the weights of the KL term and the learning rate, ``checkpoints`` what
is kept on disk, ``watch`` an estimate of log p(x) of validation data; ``compiled`` takes the step as one graph,
``whole_step`` as one CUDA graph, and ``update`` the optimizer's part of it.
"""
