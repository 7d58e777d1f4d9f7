"""Likelihoods p(x|z): modules whose ``forward(h)`` turns the decoder's output into a distribution over x.

Each names ``num_features``, the width of h it needs, and ``support``, the values it accepts as data.
"""

from pyro_vae.models.likelihoods.base import Likelihood as Likelihood
from pyro_vae.models.likelihoods.binary import Bernoulli as Bernoulli
from pyro_vae.models.likelihoods.counts import Binomial as Binomial
from pyro_vae.models.likelihoods.real import Normal as Normal
