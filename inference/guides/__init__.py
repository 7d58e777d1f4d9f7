"""Guides q(z|x): families whose ``forward(h)`` returns a distribution, and the program that samples from one."""

from pyro_vae.inference.guides.amortized import AmortizedGuide as AmortizedGuide
from pyro_vae.inference.guides.amortized import Standardize as Standardize
from pyro_vae.inference.guides.base import GuideFamily as GuideFamily
from pyro_vae.inference.guides.normal import DiagonalNormal as DiagonalNormal
