"""A user's Pyro program: how it is called, what must hold of it, and its log importance weights.

``weights`` is the centre: ``log_weights(model, guide, x, K) -> (K, B)``, of which all else is a function. Before it
come ``call`` (modules, devices, modes, random state), ``state`` (what programs keep), ``structure`` (what is refused)
and ``vectorize`` (how particles run); after it ``latents`` (values and KL of latent sites), ``enumeration`` (all values
of discrete ones), ``proposals`` (what a guide must be), ``observed`` (what is scored), ``simulate``, ``predictive``
(p(x|z), q(z|x) and p(z) of programs), ``parameters`` (whose they are), ``loop`` (over data and particles) and
``standard_errors``.
"""
