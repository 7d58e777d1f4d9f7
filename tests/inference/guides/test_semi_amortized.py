"""The semi-amortised guide: what its steps do, on models with known answers, and that it is one law for a batch."""

from __future__ import annotations

import warnings
from functools import partial

import pytest
import torch
from parts.guides import pair
from programs import PIXELS, quick
from torch import nn
from truth import LinearGaussian

from pyro_vae.inference import AmortizedGuide, evidence, fit, guides, log_weights, objectives
from pyro_vae.inference.guides import SemiAmortized, semi_amortized
from pyro_vae.inference.guides.semi_amortized import MAX_NORM, _clipped
from pyro_vae.inference.programs.weights import weight_terms

TRUTH = LinearGaussian.random(2, 3)
DATA = TRUTH.sample(12)


class Constant(nn.Module):
    """An encoder that does not look at x."""

    def __init__(self, features):
        super().__init__()
        self.value = nn.Parameter(torch.tensor(features, dtype=torch.float64))

    def forward(self, x):
        return self.value.expand(len(x), -1)


def blind(family=None, features=(0.0, 0.0, -1.0, -1.0), **settings):
    family = family or guides.DiagonalNormal(2)
    inner = AmortizedGuide(3, family, Constant(features)).double()
    return SemiAmortized(TRUTH.model, inner, **settings).double()


def elbo_gradient(h):
    """The gradient by h = (mu, log sigma) of E log p(x, z) + entropy, in closed form."""
    mu, variance = h[:, :2], (2 * h[:, 2:]).exp()
    posterior = TRUTH.posterior(DATA)
    precision = posterior.precision_matrix
    by_mu = (precision @ (posterior.mean - mu).unsqueeze(-1)).squeeze(-1)
    return torch.cat([by_mu, 1 - precision.diagonal(dim1=-2, dim2=-1) * variance], -1)


def test_a_step_is_along_the_gradient_of_each_datum_s_elbo():
    # 4,000 draws; the tolerance is 5 standard errors at most: each entry's standard deviation is below 20.
    guide = blind(num_steps=1, num_particles=4000, learning_rate=0.1)
    h = guide.guide.features(DATA).detach()
    expected = elbo_gradient(h)
    torch.testing.assert_close((guide.features(DATA) - h) / 0.1, _clipped(expected), atol=0.3, rtol=0.05)
    assert (_clipped(expected).norm(dim=1) <= MAX_NORM + 1e-9).all()
    short = expected.norm(dim=1) < MAX_NORM
    torch.testing.assert_close(_clipped(expected)[short], expected[short])


def test_steps_close_the_gap_of_an_encoder_that_sees_nothing():
    def bound(guide):
        with torch.no_grad():
            return log_weights(TRUTH.model, guide, DATA, 500).mean().item()

    guide = blind(num_steps=60, learning_rate=0.05)
    best = TRUTH.elbo(DATA).mean().item()
    precision = TRUTH.posterior(DATA).precision_matrix[0]
    best -= 0.5 * (precision.diagonal().log().sum() - precision.logdet()).item()
    assert bound(guide.guide) < best - 3
    assert best - 0.15 < bound(guide) < best + 0.05


def test_steps_stay_where_the_posterior_is_exact():
    posterior = TRUTH.posterior(DATA[:1])
    tril = posterior.scale_tril[0]
    features = [*posterior.mean[0].tolist(), tril[0, 0].log().item(), tril[1, 0].item(), tril[1, 1].log().item()]
    guide = blind(guides.FullRankNormal(2), features, num_steps=5, num_particles=1, learning_rate=0.1)
    torch.testing.assert_close(guide.features(DATA[:1]), torch.tensor([features], dtype=torch.float64))


@pytest.mark.parametrize("name", ["DiagonalNormal", "FullRankNormal", "Mixture", "Flow", "StudentT", "LogisticNormal"])
def test_works_in_fit_and_evidence_with_particles(name):
    model, inner = pair(name)
    guide = SemiAmortized(model, inner, num_steps=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        before = guide.log_step_size.detach().clone()
        quick(model, guide, PIXELS, objective=objectives.IWAE(3), epochs=2)
        assert (guide.log_step_size != before).all(1).any()
        ev = evidence(model, guide, PIXELS, 30, method="iw", progress=False, device="cpu")
    assert ev.log_px.isfinite().all()
    assert guide.posterior(PIXELS).batch_shape == (60,)


def test_evidence_is_unbiased_although_the_guide_looked_at_the_datum():
    # Each datum within 5 standard errors of the exact log p(x).
    ev = evidence(TRUTH.model, blind(num_steps=20, learning_rate=0.05), DATA, 3000, method="iw", progress=False)
    assert ((ev.log_px - TRUTH.marginal.log_prob(DATA)).abs() < 5 * ev.std_error + 1e-3).all()


def test_is_one_law_for_a_batch_and_leaves_the_generator_alone():
    guide = blind()
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    first = guide.features(DATA)
    torch.testing.assert_close(torch.rand(4), expected)
    torch.testing.assert_close(guide.features(DATA), first, rtol=0, atol=0)
    with torch.no_grad():
        torch.testing.assert_close(guide.features(DATA), first, rtol=0, atol=0)
    assert not torch.equal(blind(seed=1).features(DATA), first)


def test_noise_of_the_steps_is_not_that_of_the_draws(monkeypatch):
    seen = []

    def spying(*args, **kwargs):
        seen.append(weight_terms(*args, **kwargs).guide_sites["z"])
        return weight_terms(*args, **kwargs)

    monkeypatch.setattr(semi_amortized, "weight_terms", spying)
    blind(num_steps=1, num_particles=1).features(DATA)
    q = seen[0]["fn"]
    torch.manual_seed(0)
    elsewhere = torch.normal(torch.zeros(12, 2, dtype=torch.float64), 1.0)
    assert ((seen[0]["value"] - q.mean) / q.stddev - elsewhere).abs().max() > 0.1


def gradient_of_bound(guide, x=DATA):
    """The gradient of a smooth function of the refined features by the encoder's constant output."""
    value = (guide.features(x) * torch.arange(1.0, 5.0, dtype=torch.float64)).sum()
    return torch.autograd.grad(value, [guide.guide.encoder.value, guide.log_step_size])


def test_differentiates_through_the_steps_by_finite_differences():
    guide = blind(num_steps=3, learning_rate=0.05, differentiate=True)
    by_start, by_size = gradient_of_bound(guide)
    for parameter, gradient in ((guide.guide.encoder.value, by_start), (guide.log_step_size, by_size)):
        for index in [(1,), (3,)] if parameter.ndim == 1 else [(0, 1), (2, 2)]:
            values = []
            for bump in (1e-6, -2e-6):
                with torch.no_grad():
                    parameter[index] += bump
                weights = torch.arange(1.0, 5.0, dtype=torch.float64)
                values.append((guide.features(DATA) * weights).sum().item())
            with torch.no_grad():
                parameter[index] += 1e-6
            assert (values[0] - values[1]) / 2e-6 == pytest.approx(gradient[index].item(), rel=1e-4, abs=1e-4)


def test_first_order_takes_each_step_for_a_constant():
    guide = blind(num_steps=3, learning_rate=0.05)
    by_start, by_size = gradient_of_bound(guide)
    torch.testing.assert_close(by_start, len(DATA) * torch.arange(1.0, 5.0, dtype=torch.float64))
    assert by_size.isfinite().all()
    assert by_size.abs().min() > 0
    exact, _ = gradient_of_bound(blind(num_steps=3, learning_rate=0.05, differentiate=True))
    assert (by_start - exact).abs().max() > 0.1


def test_model_is_no_part_of_the_guide_and_gets_no_gradient_from_the_steps():
    model, inner = pair("DiagonalNormal")
    guide = SemiAmortized(model, inner)
    assert {id(p) for p in guide.parameters()}.isdisjoint(id(p) for p in model.parameters())
    guide.features(PIXELS).sum().backward()
    assert all(p.grad is None for p in model.parameters())
    guide.differentiate = True
    guide.features(PIXELS).sum().backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


@pytest.mark.parametrize("gradient", ["stl", "dreg"])
def test_exact_posterior_has_a_gradient_without_noise(gradient):
    posterior = TRUTH.posterior(DATA[:1])
    tril = posterior.scale_tril[0]
    features = [*posterior.mean[0].tolist(), tril[0, 0].log().item(), tril[1, 0].item(), tril[1, 1].log().item()]
    guide = blind(guides.FullRankNormal(2), features, num_steps=2)
    loss = objectives.ELBO(2, gradient=gradient).differentiable_loss(TRUTH.model, guide, DATA[:1])
    for value in torch.autograd.grad(loss, list(guide.parameters())):
        torch.testing.assert_close(value, torch.zeros_like(value), atol=1e-9, rtol=0)


def test_training_beats_the_same_encoder_without_steps():
    adam = partial(torch.optim.Adam, lr=0.05)
    settings = {"batch_size": 12, "epochs": 40, "optimizer": adam, "progress": False, "device": "cpu"}
    bounds = []
    for guide in (blind(num_steps=4, learning_rate=0.03), blind().guide):
        fit(TRUTH.model, guide, DATA, **settings)
        with torch.no_grad():
            bounds.append(log_weights(TRUTH.model, guide, DATA, 500).mean().item())
    assert bounds[0] > bounds[1] + 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_steps": 0}, "Expected num_steps to be an integer >= 1; got 0"),
        ({"num_particles": 0}, "Expected num_particles to be an integer >= 1; got 0"),
        ({"learning_rate": 0.0}, r"Expected learning_rate > 0; got 0\.0"),
    ],
)
def test_bad_settings_get_one_clear_line(settings, message):
    with pytest.raises(ValueError, match=message):
        blind(**settings)


def test_guides_without_features_or_derivatives_are_refused():
    with pytest.raises(ValueError, match="Expected guide to be an AmortizedGuide; got function"):
        SemiAmortized(TRUTH.model, TRUTH.guide())
    model, inner = pair("Bernoulli")
    with pytest.raises(ValueError, match="cannot be reparameterised"):
        SemiAmortized(model, inner).features(PIXELS)
    model, inner = pair("Mixture")
    with pytest.raises(ValueError, match="Draws of a mixture have a first derivative only"):
        SemiAmortized(model, inner, differentiate=True).features(PIXELS)
