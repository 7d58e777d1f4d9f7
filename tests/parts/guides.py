"""The table of guide families: how each is built for D dimensions, what its draws are, and a prior to go with it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pyro_vae.inference import AmortizedGuide, guides
from pyro_vae.models import VAE, likelihoods, mlp, priors

FAMILIES = {
    "DiagonalNormal": ("real", guides.DiagonalNormal),
    "FullRankNormal": ("real", guides.FullRankNormal),
    "LowRankNormal": ("real", guides.LowRankNormal),
    "LowRankNormal, rank 1": ("real", lambda dim: guides.LowRankNormal(dim, rank=1)),
    "Mixture": ("real", guides.Mixture),
    "Mixture, 1 component": ("real", lambda dim: guides.Mixture(dim, num_components=1)),
    "Flow": ("real", lambda dim: guides.Flow(dim, hidden=(8,), num_context=5)),
    "Flow, coupling": ("real", lambda dim: guides.Flow(dim, "nsf_coupling", 1, hidden=(8,), num_context=5)),
    "Laplace": ("real", guides.Laplace),
    "StudentT": ("real", guides.StudentT),
    "RelaxedBernoulli": ("cube", guides.RelaxedBernoulli),
    "RelaxedBernoulli, learnt": ("cube", lambda dim: guides.RelaxedBernoulli(dim, 0.8, learnable=True)),
    "RelaxedCategorical": ("simplex", guides.RelaxedCategorical),
    "RelaxedCategorical, learnt": ("simplex", lambda dim: guides.RelaxedCategorical(dim, 0.8, learnable=True)),
    "LogisticNormal": ("simplex", guides.LogisticNormal),
    "Bernoulli": ("bits", guides.Bernoulli),
    "Categorical": ("one-hot", guides.Categorical),
    "PointMass": ("point", guides.PointMass),
}
PRIOR_FOR = {
    "real": priors.StandardNormal,
    "cube": priors.RelaxedBernoulli,
    "simplex": priors.Dirichlet,
    "bits": priors.Bernoulli,
    "one-hot": priors.Categorical,
    "point": priors.Flat,
}
FAMILY_FOR = {
    "Dirichlet": guides.LogisticNormal,
    "LogisticNormal": guides.LogisticNormal,
    "RelaxedBernoulli": guides.RelaxedBernoulli,
    "RelaxedCategorical": guides.RelaxedCategorical,
    "Bernoulli": guides.Bernoulli,
    "Categorical": guides.Categorical,
}
CONTINUOUS = [name for name, (kind, _) in FAMILIES.items() if kind in ("real", "cube", "simplex")]
DISCRETE = [name for name, (kind, _) in FAMILIES.items() if kind in ("bits", "one-hot")]


def build(name: str, dim: int = 3) -> nn.Module:
    return FAMILIES[name][1](dim)


def family_for(prior: nn.Module) -> type[nn.Module]:
    """Return a family whose draws are on the prior's support."""
    return FAMILY_FOR.get(type(prior).__name__, guides.DiagonalNormal)


def pair(name: str, dim: int = 3, seed: int = 0):
    """Return a small model and guide of 6 pixels that go together."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = VAE(PRIOR_FOR[FAMILIES[name][0]](dim), likelihoods.Bernoulli(6), mlp((8,)))
        return model, AmortizedGuide(6, build(name, dim), mlp((8,)))


def grid(kind: str, size: int = 401) -> tuple[Tensor, Tensor]:
    """Return points in the plane that a kind's densities live in, and the area that each stands for.

    The trapezoidal rule in coordinates in which the density has fallen to nothing at the border.
    """
    span = 6.0 if kind == "real" else 30.0
    axis = torch.linspace(-span, span, size, dtype=torch.float64)
    t = torch.cartesian_prod(axis, axis)
    step = (2 * span / (size - 1)) ** 2
    if kind == "real":
        return t.sinh(), step * t.cosh().prod(-1)
    if kind == "cube":
        z = t.sigmoid()
        return z, step * (z * (-t).sigmoid()).prod(-1)
    z = torch.cat([t, torch.zeros_like(t[:, :1])], -1).softmax(-1)
    return z, step * z.prod(-1)


def dim_in_the_plane(kind: str) -> int:
    return 3 if kind == "simplex" else 2
