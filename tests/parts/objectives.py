"""Every objective with each of its gradients, and Pyro's own."""

from __future__ import annotations

import inspect
from functools import partial

import torch
from pyro import infer

from parts import contract
from pyro_vae.inference import objectives
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
    Objective,
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


def of_one_particle():
    """Every objective of the room with K = 1, with each gradient and each phi; one that is new is in it by itself."""
    cases = {}
    for name in contract.shipped(objectives, Objective):
        cls = getattr(objectives, name)
        if inspect.isabstract(cls):
            continue
        accepted = inspect.signature(cls).parameters
        settings = {k: v for k, v in {"num_particles": 1, "num_bounds": 1, "num_data": 60}.items() if k in accepted}
        option = "phi" if "phi" in accepted else "gradient" if "gradient" in accepted else None
        values = {"phi": ("wake", "sleep", "both"), "gradient": cls.gradients, None: [None]}[option]
        for value in values:
            choice = {} if option is None else {option: value}
            cases[f"{name}, {value}" if option else name] = partial(cls, **settings, **choice)
    return dict(sorted(cases.items()))
