"""Guides q(z|x): families whose ``forward(h)`` returns a distribution, and the program that samples from one.

``base`` says what a family is; they are in ``continuous`` and ``discrete``. ``amortized`` puts one behind an encoder.
``conditional`` guides know more than x, those of ``ladder`` have several layers, and ``semi_amortized`` goes on from
the encoder by gradient steps.
"""

from pyro_vae.inference.guides.amortized import AmortizedGuide as AmortizedGuide
from pyro_vae.inference.guides.amortized import Standardize as Standardize
from pyro_vae.inference.guides.base import GuideFamily as GuideFamily
from pyro_vae.inference.guides.conditional import ConditionalGuide as ConditionalGuide
from pyro_vae.inference.guides.conditional import SemiSupervisedGuide as SemiSupervisedGuide
from pyro_vae.inference.guides.continuous import DiagonalNormal as DiagonalNormal
from pyro_vae.inference.guides.continuous import Flow as Flow
from pyro_vae.inference.guides.continuous import FullRankNormal as FullRankNormal
from pyro_vae.inference.guides.continuous import Laplace as Laplace
from pyro_vae.inference.guides.continuous import LogisticNormal as LogisticNormal
from pyro_vae.inference.guides.continuous import LowRankNormal as LowRankNormal
from pyro_vae.inference.guides.continuous import Mixture as Mixture
from pyro_vae.inference.guides.continuous import PointMass as PointMass
from pyro_vae.inference.guides.continuous import StudentT as StudentT
from pyro_vae.inference.guides.discrete import Bernoulli as Bernoulli
from pyro_vae.inference.guides.discrete import Categorical as Categorical
from pyro_vae.inference.guides.discrete import RelaxedBernoulli as RelaxedBernoulli
from pyro_vae.inference.guides.discrete import RelaxedCategorical as RelaxedCategorical
from pyro_vae.inference.guides.ladder import HierarchicalGuide as HierarchicalGuide
from pyro_vae.inference.guides.ladder import LadderGuide as LadderGuide
from pyro_vae.inference.guides.semi_amortized import SemiAmortized as SemiAmortized
