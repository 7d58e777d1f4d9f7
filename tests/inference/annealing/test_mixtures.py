"""Annealing of latents whose prior is a mixture: the map from the reals is that of the components."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import constraints

from pyro_vae.inference import AmortizedGuide, evidence, guides, methods
from pyro_vae.inference.programs.sites import map_from_reals
from pyro_vae.models import VAE, likelihoods, mlp, priors

QUIET = {"progress": False, "device": "cpu"}


class TwoNormals:
    """z ~ 1/2 N(-2, 1/4 I) + 1/2 N(2, 1/4 I) in two dimensions, x | z ~ N(z, I): log p(x) is that of a mixture."""

    loc = torch.tensor([[-2.0, -2.0], [2.0, 2.0]], dtype=torch.float64)

    def law(self, scale: float):
        weights = dist.Categorical(torch.ones(2, dtype=torch.float64))
        return dist.MixtureSameFamily(weights, dist.Normal(self.loc, scale).to_event(1))

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.law(0.5))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def log_px(self, x):
        return self.law(math.sqrt(1.25)).log_prob(x)


def test_the_mean_weight_is_the_exact_evidence():
    """200 chains, four standard errors: a false alarm once in 4,000 runs of three data."""
    truth, x = TwoNormals(), torch.tensor([[0.0, 0.5], [2.0, 1.0], [-1.0, 3.0]], dtype=torch.float64)
    ev = evidence(truth.model, _wide, x, 200, method=methods.AIS(60, 2), seed=3, **QUIET)
    assert ((ev.log_px - truth.log_px(x)).abs() < 4 * ev.std_error).all()
    assert (ev.std_error < 0.1).all()


def _wide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(torch.zeros(2, dtype=torch.float64), 3.0).to_event(1))


def _vamp(dim):
    guide = AmortizedGuide(6, guides.DiagonalNormal(dim), mlp((4,)))
    return priors.VampPrior(guide, 3, torch.rand(9, 6))


@pytest.mark.parametrize("prior", [priors.Mixture, priors.SpikeAndSlab, _vamp], ids=["Mixture", "SpikeAndSlab", "Vamp"])
def test_priors_that_are_mixtures_are_annealed_from(prior):
    """In two dimensions importance weighting with a wide guide knows log p(x), and annealing agrees with it."""
    torch.manual_seed(1)
    model = VAE(prior(2), likelihoods.Bernoulli(6), mlp((4,)))
    x = (torch.rand(4, 6) < 0.5).float()

    def wide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.StudentT(4.0, torch.zeros(2), 1.5).to_event(1))

    exact = evidence(model, wide, x, 20_000, **QUIET)
    annealed = evidence(model, wide, x, 100, method=methods.AIS(30, 2), **QUIET)
    error = (exact.std_error.square() + annealed.std_error.square()).sqrt()
    assert ((exact.log_px - annealed.log_px).abs() < 4 * error + 1e-3).all()


def test_the_map_of_a_mixture_is_that_of_its_components():
    positive = dist.MixtureSameFamily(dist.Categorical(torch.ones(2)), dist.Gamma(torch.ones(2), 1.0))
    u = torch.linspace(-3, 3, 7)
    assert torch.equal(map_from_reals(positive.support)(u), u.exp())
    entries = dist.MixtureSameFamily(dist.Categorical(torch.ones(3, 2)), dist.Normal(torch.zeros(3, 2), 1.0)).to_event(
        1
    )
    assert torch.equal(map_from_reals(entries.support)(u[:3]), u[:3])
    assert map_from_reals(constraints.simplex)(torch.zeros(2)).shape == (3,)
    apart = dist.MixtureSameFamily(dist.Categorical(torch.ones(2)), dist.Uniform(torch.tensor([0.0, 5.0]), 9.0))
    with pytest.raises(NotImplementedError, match="bounds of their own"):
        map_from_reals(apart.support)
