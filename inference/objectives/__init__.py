"""Objectives: bounds on log p(x), their gradient estimators and K, three independent choices.

Each is a ``pyro.infer.ELBO`` whose loss is minus the bound, the mean over data, in nats per datum: see ``base``. The
bounds are in ``elbo``, ``bounds``, ``thermodynamic``, ``wake_sleep`` and ``aggregate``; the estimators in
``gradients``, which ``rescoring`` serves; ``chunks`` runs many particles in the memory of a few; ``pairs`` keeps
what is known of programs.
"""

from pyro_vae.inference.objectives.aggregate import BetaTCVAE as BetaTCVAE
from pyro_vae.inference.objectives.aggregate import InfoVAE as InfoVAE
from pyro_vae.inference.objectives.base import Objective as Objective
from pyro_vae.inference.objectives.bounds import CIWAE as CIWAE
from pyro_vae.inference.objectives.bounds import CUBO as CUBO
from pyro_vae.inference.objectives.bounds import IWAE as IWAE
from pyro_vae.inference.objectives.bounds import MIWAE as MIWAE
from pyro_vae.inference.objectives.bounds import Renyi as Renyi
from pyro_vae.inference.objectives.elbo import ELBO as ELBO
from pyro_vae.inference.objectives.elbo import FreeBits as FreeBits
from pyro_vae.inference.objectives.thermodynamic import TVO as TVO
from pyro_vae.inference.objectives.wake_sleep import RWS as RWS
