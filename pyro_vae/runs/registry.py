"""The kinds of part that a config names: what each is, where ours are, and what data and other parts fill in."""

from __future__ import annotations

import pyro.infer
from torch import nn, optim
from torch.distributions import Distribution

from pyro_vae.core.registry import Registry
from pyro_vae.data.tables import LIKELIHOODS
from pyro_vae.inference import guides, objectives
from pyro_vae.inference.scoring import methods
from pyro_vae.models import networks, priors

STOCK_OBJECTIVES = (
    "Trace_ELBO", "TraceMeanField_ELBO", "TraceGraph_ELBO", "TraceEnum_ELBO", "RenyiELBO", "ReweightedWakeSleep",
)  # fmt: skip
FILLED_IN = frozenset({"dim", "event_shape", "data", "guide"})
"""Arguments of parts that the latent dimension, the data and the guide determine."""
NETWORK_FILLED_IN = frozenset({"in_shape", "out_features", "image_shape"})


def _networks(kind: str, what: str, without: str) -> Registry:
    return Registry(
        kind,
        networks.NetworkFactory,
        networks,
        what,
        accepts=(nn.Module,),
        without=frozenset({without}),
        filled_in=NETWORK_FILLED_IN,
        filled_in_ours=frozenset({"activation"}),  # --activation is of both networks
    )


PRIORS = Registry("prior", priors.Prior, priors, "prior p(z)", accepts=(nn.Module, Distribution), filled_in=FILLED_IN)
GUIDES = Registry(
    "guide", guides.GuideFamily, guides, "family of the guide q(z|x)", accepts=(nn.Module,), filled_in=FILLED_IN
)
ENCODERS = _networks("encoder", "network of the guide: mlp, gated_mlp or conv", without="deconv")
DECODERS = _networks("decoder", "network of the model: mlp, gated_mlp or deconv", without="conv")
OBJECTIVES = Registry(
    "objective",
    objectives.Objective,
    objectives,
    "what training maximises",
    accepts=(pyro.infer.ELBO,),
    others={name: getattr(pyro.infer, name) for name in STOCK_OBJECTIVES},
    filled_in=FILLED_IN,
)
METHODS = Registry("method", methods.Method, methods, "how log p(x) is estimated", filled_in=FILLED_IN)
OPTIMIZERS = Registry(
    "optimizer",
    optim.Optimizer,
    optim,
    "a torch optimizer: --optimizer Adam --optimizer.lr 1e-3",
    filled_in=frozenset({"params"}),
)
SCHEDULERS = Registry(
    "scheduler",
    optim.lr_scheduler.LRScheduler,
    optim.lr_scheduler,
    "a torch learning-rate schedule, stepped each epoch: --scheduler ExponentialLR --scheduler.gamma 0.99",
    filled_in=frozenset({"optimizer"}),
)
PARTS = {
    r.kind: r for r in (PRIORS, LIKELIHOODS, GUIDES, ENCODERS, DECODERS, OBJECTIVES, METHODS, OPTIMIZERS, SCHEDULERS)
}
"""All kinds of part but the kinds of model, which are made of them: those are in ``kinds``."""
