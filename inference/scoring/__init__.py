"""log p(x) with its uncertainty: ``evidence``, by one of ``methods``, as an ``Evidence`` of ``estimates``.

``base`` says what an estimator is; ``importance``, with ``refinement`` of its proposal, ``laplace`` and ``ais`` are the
methods, and ``auto`` chooses for each datum among the ``rungs``, from the guide to a ``bridge`` of annealed chains;
``modes`` finds where proposals stand, ``student`` is what they are. ``tail`` reduces weights as they stream by,
``partial`` keeps them on disk. ``audit`` holds estimates against annealing, ``compare`` ranks models and finds the
inference gaps; ``posterior`` draws from p(z|x) and imputes.
"""
