"""Priors p(z): modules whose ``forward()`` returns a distribution of batch shape () and event shape (D,).

``continuous`` on R^D, ``sparse`` near 0, ``simplex`` positive shares, ``discrete`` codes and their relaxations, and
``vamp``, the mixture of the guide's posteriors; ``base`` says what a prior is.
"""

from pyro_vae.models.priors.base import Prior as Prior
from pyro_vae.models.priors.continuous import DiagonalNormal as DiagonalNormal
from pyro_vae.models.priors.continuous import Flat as Flat
from pyro_vae.models.priors.continuous import Flow as Flow
from pyro_vae.models.priors.continuous import FullNormal as FullNormal
from pyro_vae.models.priors.continuous import Mixture as Mixture
from pyro_vae.models.priors.continuous import StandardNormal as StandardNormal
from pyro_vae.models.priors.continuous import StudentT as StudentT
from pyro_vae.models.priors.discrete import Bernoulli as Bernoulli
from pyro_vae.models.priors.discrete import Categorical as Categorical
from pyro_vae.models.priors.discrete import RelaxedBernoulli as RelaxedBernoulli
from pyro_vae.models.priors.discrete import RelaxedCategorical as RelaxedCategorical
from pyro_vae.models.priors.simplex import Dirichlet as Dirichlet
from pyro_vae.models.priors.simplex import LogisticNormal as LogisticNormal
from pyro_vae.models.priors.sparse import Horseshoe as Horseshoe
from pyro_vae.models.priors.sparse import Laplace as Laplace
from pyro_vae.models.priors.sparse import SpikeAndSlab as SpikeAndSlab
from pyro_vae.models.priors.vamp import VampPrior as VampPrior
