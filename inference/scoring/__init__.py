"""log p(x) with its uncertainty: ``evidence``, by one of ``methods``, as an ``Evidence`` of ``estimates``.

``base`` says what a method is; ``importance``, with ``refinement`` of its proposal, and ``ais`` are the methods;
``tail`` reduces their weights as they stream by, ``partial`` keeps them on disk. ``compare`` ranks models and finds
the inference gaps; ``posterior`` draws from p(z|x) and imputes.
"""
