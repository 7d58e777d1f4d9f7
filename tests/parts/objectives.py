"""Every objective with each of its gradients, and Pyro's own."""

from __future__ import annotations

import torch
from pyro import infer

from pyro_vae.inference.objectives import (
    CIWAE,
    CUBO,
    ELBO,
    IWAE,
    MIWAE,
    RWS,
    TVO,
    BetaTCVAE,
    FreeBits,
    InfoVAE,
    Renyi,
)

K = {IWAE: 3, MIWAE: 3, CIWAE: 3, Renyi: 3, TVO: 3, RWS: 3, ELBO: 2}


def _every_gradient(cls, *args):
    return {
        f"{cls.__name__}, {g}": lambda g=g: cls(K[cls], *args, gradient=g) for g in cls.gradients if g != "enumerate"
    }


OBJECTIVES = {
    **_every_gradient(ELBO),
    **_every_gradient(IWAE),
    **_every_gradient(MIWAE),
    **_every_gradient(CIWAE),
    **_every_gradient(Renyi),
    **_every_gradient(TVO),
    **{f"RWS, {phi}": lambda phi=phi: RWS(3, phi=phi) for phi in ("wake", "sleep", "both")},
    "ELBO, analytic": lambda: ELBO(2, kl="analytic"),
    "ELBO, beta": lambda: ELBO(2, beta=3.0),
    "Renyi, max": lambda: Renyi(3, -torch.inf),
    "FreeBits, dimension": lambda: FreeBits(0.1),
    "FreeBits, site": lambda: FreeBits(0.1, per="site"),
    "BetaTCVAE": lambda: BetaTCVAE(60, beta=3.0),
    "InfoVAE": lambda: InfoVAE(),
    "CUBO": lambda: CUBO(3),
}
STOCK = {
    "Trace_ELBO": lambda: infer.Trace_ELBO(2),
    "TraceMeanField_ELBO": lambda: infer.TraceMeanField_ELBO(),
    "TraceGraph_ELBO": lambda: infer.TraceGraph_ELBO(),
    "RenyiELBO": lambda: infer.RenyiELBO(0.5, num_particles=2),
}
