"""A user's Pyro program: how it is called, what must hold of it, and its log importance weights.

``weights`` is the centre: ``log_weights(model, guide, x, K) -> (K, B)``, of which all else is a function.
"""
