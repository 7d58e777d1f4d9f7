"""Likelihoods p(x|z): modules whose ``forward(h)`` turns the decoder's output into a distribution over x.

Each names ``num_features``, the width of h it needs, and ``support``, the values it accepts as data.
"""

from pyro_vae.models.likelihoods.base import Likelihood as Likelihood
from pyro_vae.models.likelihoods.binary import Bernoulli as Bernoulli
from pyro_vae.models.likelihoods.categorical import Categorical as Categorical
from pyro_vae.models.likelihoods.categorical import Multinomial as Multinomial
from pyro_vae.models.likelihoods.counts import Binomial as Binomial
from pyro_vae.models.likelihoods.counts import NegativeBinomial as NegativeBinomial
from pyro_vae.models.likelihoods.counts import Poisson as Poisson
from pyro_vae.models.likelihoods.counts import ZeroInflatedNegativeBinomial as ZeroInflatedNegativeBinomial
from pyro_vae.models.likelihoods.images import DiscretizedLogistic as DiscretizedLogistic
from pyro_vae.models.likelihoods.images import MixtureOfDiscretizedLogistics as MixtureOfDiscretizedLogistics
from pyro_vae.models.likelihoods.mixed import Mixed as Mixed
from pyro_vae.models.likelihoods.positive import Gamma as Gamma
from pyro_vae.models.likelihoods.positive import LogNormal as LogNormal
from pyro_vae.models.likelihoods.real import Laplace as Laplace
from pyro_vae.models.likelihoods.real import Normal as Normal
from pyro_vae.models.likelihoods.real import StudentT as StudentT
from pyro_vae.models.likelihoods.unit_interval import Beta as Beta
from pyro_vae.models.likelihoods.unit_interval import ContinuousBernoulli as ContinuousBernoulli
