"""Every prior: one line in the table gives a prior every check."""

from __future__ import annotations

import torch

from pyro_vae.inference import AmortizedGuide, guides
from pyro_vae.models import mlp, priors

PRIORS = {
    "StandardNormal": priors.StandardNormal,
    "DiagonalNormal": priors.DiagonalNormal,
    "FullNormal": priors.FullNormal,
    "StudentT": priors.StudentT,
    "StudentT, learnt": lambda dim: priors.StudentT(dim, df=1.5, scale=0.5, learnable=True),
    "Mixture": lambda dim: priors.Mixture(dim, num_components=4),
    "VampPrior": lambda dim: _vamp(dim),
    "VampPrior, bounded, learnt weights": lambda dim: _vamp(dim, learn_weights=True, bounded=True),
    "Flow": lambda dim: priors.Flow(dim, hidden=(8,)),
    "Flow, maf": lambda dim: priors.Flow(dim, kind="maf", hidden=(8,), transforms=2),
    "Laplace": priors.Laplace,
    "Laplace, learnt": lambda dim: priors.Laplace(dim, scale=0.4, learnable=True),
    "Horseshoe": priors.Horseshoe,
    "Horseshoe, learnt": lambda dim: priors.Horseshoe(dim, scale=0.3, learnable=True),
    "SpikeAndSlab": lambda dim: priors.SpikeAndSlab(dim, p=0.3, spike_scale=0.2),
    "SpikeAndSlab, learnt": lambda dim: priors.SpikeAndSlab(dim, p=0.3, spike_scale=0.2, learnable=True),
    "Dirichlet": lambda dim: priors.Dirichlet(dim, concentration=0.8),
    "Dirichlet, learnt": lambda dim: priors.Dirichlet(dim, concentration=2.0, learnable=True),
    "LogisticNormal": priors.LogisticNormal,
    "LogisticNormal, learnt": lambda dim: priors.LogisticNormal(dim, scale=0.7, learnable=True),
    "RelaxedBernoulli": lambda dim: priors.RelaxedBernoulli(dim, temperature=0.7),
    "RelaxedBernoulli, learnt": lambda dim: priors.RelaxedBernoulli(dim, temperature=0.7, p=0.3, learnable=True),
    "RelaxedCategorical": lambda dim: priors.RelaxedCategorical(dim, temperature=0.7),
    "RelaxedCategorical, learnt": lambda dim: priors.RelaxedCategorical(dim, temperature=0.7, learnable=True),
    "Bernoulli": lambda dim: priors.Bernoulli(dim, p=0.3),
    "Bernoulli, learnt": lambda dim: priors.Bernoulli(dim, learnable=True),
    "Categorical": priors.Categorical,
    "Categorical, learnt": lambda dim: priors.Categorical(dim, learnable=True),
    "Flat": priors.Flat,
}
DISCRETE = [name for name in PRIORS if name.startswith(("Bernoulli", "Categorical"))]
CONTINUOUS = [name for name in PRIORS if name not in DISCRETE and name != "Flat"]
FLOWS = [name for name in PRIORS if name.startswith("Flow")]
PROPER = CONTINUOUS + DISCRETE


def _vamp(dim, **settings):
    guide = AmortizedGuide(4, guides.DiagonalNormal(dim), mlp((5,)))
    return priors.VampPrior(guide, num_components=6, data=torch.randn(20, 4), **settings)


def disturbed(name, dim):
    """A prior in float64 with its parameters moved away from their symmetric first values."""
    prior = PRIORS[name](dim).double()
    with torch.no_grad():
        for p in prior.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return prior
