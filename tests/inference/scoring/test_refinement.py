"""Guides fitted to each datum."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from programs import counting_programs, make_pair
from truth import BernoulliMixture, GammaPoisson, LinearGaussian

from pyro_vae.inference import AmortizedGuide, evidence, guides, log_weights, methods
from pyro_vae.inference.scoring.refinement import refine
from pyro_vae.models import mlp


def test_refinement_reaches_the_best_of_the_family():
    """A full-rank guide, shifted and widened, is fitted back to the exact posterior by shift and scale."""
    truth = LinearGaussian(torch.eye(3, 2, dtype=torch.float64) * 2, torch.zeros(3, dtype=torch.float64), 0.8)
    x = truth.sample(6)
    poor = truth.guide(2.5, 1.5)
    fitted = refine(truth.model, poor, (x,), 300)
    exact = truth.marginal.log_prob(x)
    before = log_weights(truth.model, poor, x, 2000).mean(0)
    after = log_weights(truth.model, fitted, x, 2000)
    assert (before < exact - 1).all()
    torch.testing.assert_close(after.mean(0), exact, atol=0.01, rtol=0)
    assert (after.std(0) < 0.1).all()


def test_refinement_of_an_amortised_guide_and_of_positive_latents():
    model, guide = make_pair()
    x = torch.bernoulli(torch.full((5, 6), 0.5))
    weights = [p.clone() for p in guide.parameters()]
    fitted = refine(model, guide, (x,), 100)
    gain = log_weights(model, fitted, x, 2000).mean(0) - log_weights(model, guide, x, 2000).mean(0)
    assert (gain > 0).all()
    assert all(torch.equal(a, b) and b.requires_grad for a, b in zip(weights, guide.parameters(), strict=True))
    assert all(p.grad is None for p in [*model.parameters(), *guide.parameters()])

    truth = GammaPoisson()

    def wide(x):
        with pyro.plate("data", x.shape[0], dim=-2):
            pyro.sample("z", dist.LogNormal(torch.zeros(len(x), 1, dtype=x.dtype), 1.0))

    counts = torch.tensor([[0.0, 3.0, 2.0], [9.0, 8.0, 12.0]], dtype=torch.float64)
    ev = evidence(truth.model, wide, counts, 2000, method=methods.IW(refine=300), progress=False)
    assert ((ev.log_px - truth.log_px(counts)).abs() < 4.5 * ev.std_error).all()
    assert (ev.elbo > truth.log_px(counts) - 0.1).all()  # the best log-normal is close to a gamma
    plain = evidence(truth.model, wide, counts, 2000, method="iw", progress=False)
    assert (plain.elbo < truth.log_px(counts) - 0.3).all()


def test_refined_evidence_closes_the_amortisation_gap():
    model, guide = make_pair()
    x = torch.bernoulli(torch.full((5, 6), 0.5))
    plain, refined = (
        evidence(model, guide, x, 500, method=methods.IW(refine=steps), progress=False) for steps in (0, 100)
    )
    assert (refined.elbo > plain.elbo).all()
    assert ((refined.log_px - plain.log_px).abs() < 5 * plain.std_error + 1e-3).all()
    assert refined.method == "importance weighting (refine 100)"
    assert plain.method == "importance weighting"


def test_discrete_guides_cannot_be_refined():
    truth = BernoulliMixture()
    x = torch.ones(2, 4, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"site 'z' \(Categorical\) cannot be reparameterised.*Score it as it is"):
        evidence(truth, truth.guide, x, 10, method=methods.IW(refine=5), progress=False)


def test_auxiliary_guides_cannot_be_refined():
    model, _ = make_pair()
    guide = AmortizedGuide(6, guides.PointMass(2), mlp((8,)))
    with pytest.raises(ValueError, match="Guide site 'z' is a point mass or auxiliary"):
        refine(model, lambda x: guide(x), (torch.ones(2, 6),), 3)


def test_a_guide_is_fitted_in_bounded_memory():
    model, guide, sizes = counting_programs()
    evidence(model, guide, torch.randn(40), 2, method=methods.IW(refine=3), chunk_size=64, progress=False)
    assert max(sizes) <= 64
