"""Estimators of log p(x): importance weighting, its jackknife, Laplace, annealed importance sampling.

A method of one's own derives from ``Method``; ``BY_NAME`` holds those that ``evidence`` takes by name.
"""

from collections.abc import Callable

from pyro_vae.inference.scoring.ais import AIS as AIS
from pyro_vae.inference.scoring.auto import Auto as Auto
from pyro_vae.inference.scoring.base import Estimator as Estimator
from pyro_vae.inference.scoring.base import Method as Method
from pyro_vae.inference.scoring.importance import IW as IW
from pyro_vae.inference.scoring.importance import Jackknife as Jackknife
from pyro_vae.inference.scoring.laplace import Laplace as Laplace

BY_NAME: dict[str, Callable[[], Estimator]] = {
    "auto": Auto,
    "iw": IW,
    "jackknife": Jackknife,
    "laplace": Laplace,
    "ais": AIS,
}
