"""Annealed importance sampling with Hamiltonian Monte Carlo, and bounds on log p(x) from both sides."""
