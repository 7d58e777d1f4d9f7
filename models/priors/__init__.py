"""Priors p(z): modules whose ``forward()`` returns a distribution of batch shape () and event shape (D,)."""

from pyro_vae.models.priors.base import Prior as Prior
from pyro_vae.models.priors.normal import StandardNormal as StandardNormal
