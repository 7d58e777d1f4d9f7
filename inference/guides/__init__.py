"""Guides q(z|x): families whose ``forward(h)`` returns a distribution, and the program that samples from one."""

from pyro_vae.inference.guides.amortized import AmortizedGuide as AmortizedGuide
from pyro_vae.inference.guides.amortized import Standardize as Standardize
from pyro_vae.inference.guides.base import GuideFamily as GuideFamily
from pyro_vae.inference.guides.conditional import ConditionalGuide as ConditionalGuide
from pyro_vae.inference.guides.conditional import SemiSupervisedGuide as SemiSupervisedGuide
from pyro_vae.inference.guides.discrete import Bernoulli as Bernoulli
from pyro_vae.inference.guides.discrete import Categorical as Categorical
from pyro_vae.inference.guides.flow import Flow as Flow
from pyro_vae.inference.guides.heavy_tailed import Laplace as Laplace
from pyro_vae.inference.guides.heavy_tailed import StudentT as StudentT
from pyro_vae.inference.guides.ladder import HierarchicalGuide as HierarchicalGuide
from pyro_vae.inference.guides.ladder import LadderGuide as LadderGuide
from pyro_vae.inference.guides.mixture import Mixture as Mixture
from pyro_vae.inference.guides.normal import DiagonalNormal as DiagonalNormal
from pyro_vae.inference.guides.normal import FullRankNormal as FullRankNormal
from pyro_vae.inference.guides.normal import LowRankNormal as LowRankNormal
from pyro_vae.inference.guides.point import PointMass as PointMass
from pyro_vae.inference.guides.relaxed import RelaxedBernoulli as RelaxedBernoulli
from pyro_vae.inference.guides.relaxed import RelaxedCategorical as RelaxedCategorical
from pyro_vae.inference.guides.semi_amortized import SemiAmortized as SemiAmortized
from pyro_vae.inference.guides.simplex import LogisticNormal as LogisticNormal
