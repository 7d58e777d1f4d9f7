"""A user's Pyro program: how it is called, what must hold of it, and its log importance weights.

``weights`` is the centre: ``log_weights(model, guide, x, K) -> (K, B)``, of which all else is a function.

How a program is run: ``call`` (modules, devices, modes, random state), ``state`` and ``trial`` (what it keeps, put
back), ``again`` (with the same random numbers), ``loop`` (over data and particles). What must hold of it: ``plates``
(which is that of the data), ``structure`` (what is refused), ``vectorize`` (how particles run), ``proposals`` (what a
guide must be), ``parameters`` (whose they are). Discrete latents: ``summed`` and ``log_einsum`` (of the model alone),
``enumeration`` (of the guide). All data as one datum: ``joint`` and ``particles``. Values: ``latents`` (and their KL),
``observed`` and ``places`` (what is scored, and where it stands), ``simulate``, ``predictive`` (p(x|z), q(z|x), p(z)),
``standard_errors``.
"""
