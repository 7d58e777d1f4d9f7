"""Estimators of log p(x), by name: importance weighting, its jackknife, annealed importance sampling.

A method of one's own derives from ``Method``.
"""

from pyro_vae.inference.scoring.ais import AIS as AIS
from pyro_vae.inference.scoring.base import Method as Method
from pyro_vae.inference.scoring.importance import IW as IW
from pyro_vae.inference.scoring.importance import Jackknife as Jackknife
