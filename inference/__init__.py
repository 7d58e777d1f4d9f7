"""Guides q(z|x), objectives, training, and estimates of log p(x), for any Pyro program.

``programs`` is what all stands on, log w above all. ``guides`` and ``objectives`` are what users swap, ``compile``
makes both fast, ``training`` fits them; ``annealing`` and ``scoring`` estimate log p(x), and ``diagnostics`` judge
the rest. Each imports from those before it alone.
"""

from pyro_vae.inference import diagnostics as diagnostics
from pyro_vae.inference import guides as guides
from pyro_vae.inference import objectives as objectives
from pyro_vae.inference.annealing.rate_distortion import RateDistortionCurve as RateDistortionCurve
from pyro_vae.inference.annealing.rate_distortion import rate_distortion_curve as rate_distortion_curve
from pyro_vae.inference.annealing.sandwich import Sandwich as Sandwich
from pyro_vae.inference.annealing.sandwich import sandwich as sandwich
from pyro_vae.inference.diagnostics.signal import GradientSNR as GradientSNR
from pyro_vae.inference.diagnostics.signal import gradient_snr as gradient_snr
from pyro_vae.inference.guides import AmortizedGuide as AmortizedGuide
from pyro_vae.inference.programs.weights import WeightTerms as WeightTerms
from pyro_vae.inference.programs.weights import log_weights as log_weights
from pyro_vae.inference.programs.weights import weight_terms as weight_terms
from pyro_vae.inference.scoring import methods as methods
from pyro_vae.inference.scoring.audit import Audit as Audit
from pyro_vae.inference.scoring.audit import Bracket as Bracket
from pyro_vae.inference.scoring.audit import audit as audit
from pyro_vae.inference.scoring.audit import certify as certify
from pyro_vae.inference.scoring.compare import Gaps as Gaps
from pyro_vae.inference.scoring.compare import compare as compare
from pyro_vae.inference.scoring.compare import gaps as gaps
from pyro_vae.inference.scoring.estimates import Evidence as Evidence
from pyro_vae.inference.scoring.evidence import evidence as evidence
from pyro_vae.inference.scoring.posterior import impute as impute
from pyro_vae.inference.training import schedules as schedules
from pyro_vae.inference.training.fit import FitResult as FitResult
from pyro_vae.inference.training.fit import fit as fit
