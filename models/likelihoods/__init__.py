"""Likelihoods p(x|z): modules whose ``forward(h)`` turns the decoder's output into a distribution over x.

Each names ``num_features``, the width of h it needs, and ``support``, the values it accepts as data; ``base`` says what
a likelihood is. ``continuous``, ``discrete`` and ``images`` hold those of independent entries; ``mixed`` that of a
table, ``schema`` its columns.
"""

from pyro_vae.models.likelihoods.base import Likelihood as Likelihood
from pyro_vae.models.likelihoods.continuous import Beta as Beta
from pyro_vae.models.likelihoods.continuous import ContinuousBernoulli as ContinuousBernoulli
from pyro_vae.models.likelihoods.continuous import Gamma as Gamma
from pyro_vae.models.likelihoods.continuous import Laplace as Laplace
from pyro_vae.models.likelihoods.continuous import LogNormal as LogNormal
from pyro_vae.models.likelihoods.continuous import Normal as Normal
from pyro_vae.models.likelihoods.continuous import StudentT as StudentT
from pyro_vae.models.likelihoods.discrete import Bernoulli as Bernoulli
from pyro_vae.models.likelihoods.discrete import Binomial as Binomial
from pyro_vae.models.likelihoods.discrete import Categorical as Categorical
from pyro_vae.models.likelihoods.discrete import Multinomial as Multinomial
from pyro_vae.models.likelihoods.discrete import NegativeBinomial as NegativeBinomial
from pyro_vae.models.likelihoods.discrete import Poisson as Poisson
from pyro_vae.models.likelihoods.discrete import ZeroInflatedNegativeBinomial as ZeroInflatedNegativeBinomial
from pyro_vae.models.likelihoods.images import DiscretizedLogistic as DiscretizedLogistic
from pyro_vae.models.likelihoods.images import MixtureOfDiscretizedLogistics as MixtureOfDiscretizedLogistics
from pyro_vae.models.likelihoods.mixed import Mixed as Mixed
