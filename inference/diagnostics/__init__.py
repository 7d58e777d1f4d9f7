"""Diagnostics of guides and models, as functions of arrays and of Pyro programs.

Of weights: ``pareto_khat``. Of latents: ``active_units``, ``kl_per_dimension``, ``rate_distortion``, ``elbo_surgery``.
Of the guide, on the model's own data: ``sbc``, ``expected_coverage``. Of the model, on real data: ``predictive_check``,
``pit``, ``outliers``. Of training: ``signal``. What is judged by ranks is judged in ``uniformity``.
"""

from pyro_vae.inference.diagnostics.calibration import SBC as SBC
from pyro_vae.inference.diagnostics.calibration import Coverage as Coverage
from pyro_vae.inference.diagnostics.calibration import expected_coverage as expected_coverage
from pyro_vae.inference.diagnostics.calibration import sbc as sbc
from pyro_vae.inference.diagnostics.criticism import PIT as PIT
from pyro_vae.inference.diagnostics.criticism import PredictiveCheck as PredictiveCheck
from pyro_vae.inference.diagnostics.criticism import pit as pit
from pyro_vae.inference.diagnostics.criticism import predictive_check as predictive_check
from pyro_vae.inference.diagnostics.latent import ActiveUnits as ActiveUnits
from pyro_vae.inference.diagnostics.latent import LatentKL as LatentKL
from pyro_vae.inference.diagnostics.latent import active_units as active_units
from pyro_vae.inference.diagnostics.latent import kl_per_dimension as kl_per_dimension
from pyro_vae.inference.diagnostics.outliers import Outliers as Outliers
from pyro_vae.inference.diagnostics.outliers import outliers as outliers
from pyro_vae.inference.diagnostics.rate import ELBOSurgery as ELBOSurgery
from pyro_vae.inference.diagnostics.rate import RateDistortion as RateDistortion
from pyro_vae.inference.diagnostics.rate import elbo_surgery as elbo_surgery
from pyro_vae.inference.diagnostics.rate import rate_distortion as rate_distortion
from pyro_vae.inference.diagnostics.uniformity import Uniformity as Uniformity
from pyro_vae.inference.diagnostics.uniformity import ecdf_band as ecdf_band
from pyro_vae.inference.diagnostics.uniformity import uniformity as uniformity
from pyro_vae.inference.scoring.tail import pareto_khat as pareto_khat
