"""Everything that a config names: a registry for each setting that names a part."""

from __future__ import annotations

import pyro.infer
from torch import optim

from pyro_vae.core.registry import FILLED_IN, Registry
from pyro_vae.data.tables import LIKELIHOODS
from pyro_vae.inference import objectives
from pyro_vae.inference.scoring import methods
from pyro_vae.inference.training.schedules import Cosine
from pyro_vae.runs.kinds import KINDS
from pyro_vae.runs.parts import GUIDES, NETWORKS, PRIORS

STOCK_OBJECTIVES = (
    "Trace_ELBO", "TraceMeanField_ELBO", "TraceGraph_ELBO", "TraceEnum_ELBO", "RenyiELBO", "ReweightedWakeSleep",
)  # fmt: skip
OBJECTIVES = Registry(
    "objective",
    objectives.Objective,
    objectives,
    "what training maximises",
    accepts=(pyro.infer.ELBO,),
    others={name: getattr(pyro.infer, name) for name in STOCK_OBJECTIVES},
    filled_in=FILLED_IN,
)
METHODS = Registry("method", methods.Estimator, methods, "how log p(x) is estimated", filled_in=FILLED_IN)
OPTIMIZERS = Registry(
    "optimizer",
    optim.Optimizer,
    optim,
    "a torch optimizer: --optimizer Adam --optimizer.lr 1e-3",
    filled_in=frozenset({"params"}),
    always_shown=frozenset({"lr"}),
)
SCHEDULERS = Registry(
    "scheduler",
    optim.lr_scheduler.LRScheduler,
    optim.lr_scheduler,
    "a torch learning-rate schedule, stepped each epoch: --scheduler ExponentialLR --scheduler.gamma 0.99",
    others={"Cosine": Cosine},
    filled_in=frozenset({"optimizer"}),
)
REGISTRIES = {
    "model": KINDS,
    "prior": PRIORS,
    "likelihood": LIKELIHOODS,
    "guide": GUIDES,
    **NETWORKS,
    "objective": OBJECTIVES,
    "method": METHODS,
    "optimizer": OPTIMIZERS,
    "scheduler": SCHEDULERS,
}
