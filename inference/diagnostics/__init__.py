"""Diagnostics of guides and models, as functions of arrays and of Pyro programs."""

from pyro_vae.inference.diagnostics.pareto import pareto_khat as pareto_khat
