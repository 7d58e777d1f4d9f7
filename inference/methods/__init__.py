"""Estimators of log p(x): importance weighting, its jackknife, annealed importance sampling."""

from pyro_vae.inference.methods.annealed import AIS as AIS
from pyro_vae.inference.methods.base import Method as Method
from pyro_vae.inference.methods.importance import IW as IW
from pyro_vae.inference.methods.importance import Jackknife as Jackknife
