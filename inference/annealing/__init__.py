"""Annealed importance sampling with Hamiltonian Monte Carlo, and bounds on log p(x) from both sides.

``chains`` holds ``anneal``, along the ``path`` from prior or guide to posterior, by the transitions of ``hmc``,
whose steps ``tuning`` finds, on latents as real numbers, ``unconstrained``. ``sandwich`` and ``rate_distortion`` are
made of it.
"""
