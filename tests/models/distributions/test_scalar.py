"""Distributions on numbers, where torch has none or one that is not exact: against scipy and quadrature."""

from __future__ import annotations

import pytest
import torch
from scipy import special

from pyro_vae.models import likelihoods
from pyro_vae.models.distributions.scalar import log_gamma_ratio


@pytest.mark.parametrize("x", [0.5, 3.0])
def test_ratio_of_gamma_functions_in_float32(x):
    a = torch.tensor([1e-3, 0.5, 3.0, 15.9, 16.1, 200.0, 1e4, 1e7], requires_grad=True)
    ratio = log_gamma_ratio(a, x)
    (slope,) = torch.autograd.grad(ratio.sum(), a)
    exact = a.detach().double().numpy()
    expected = torch.from_numpy(special.gammaln(exact + x) - special.gammaln(exact))
    torch.testing.assert_close(ratio.double(), expected, rtol=2e-6, atol=2e-6)
    expected_slope = torch.from_numpy(special.digamma(exact + x) - special.digamma(exact))
    torch.testing.assert_close(slope.double(), expected_slope, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("eta", [-60.0, -16.5, -0.11, -0.09, -1e-4, 0.0, 1e-4, 0.09, 0.11, 16.5, 60.0])
def test_continuous_bernoulli_in_float32(eta):
    """Value, gradient and mean, far beyond where probabilities round to 0 or 1, and where its formulas meet."""
    h, x = torch.tensor([eta], requires_grad=True), torch.tensor([0.25])
    p = likelihoods.ContinuousBernoulli(1)(h)
    (slope,) = torch.autograd.grad(p.log_prob(x), h)
    wide = torch.tensor(eta or 1e-6, dtype=torch.float64)
    log_norm = wide.relu() + torch.log(-torch.expm1(-wide.abs()) / wide.abs())
    mean = 0.5 + 0.5 / torch.tanh(wide / 2) - 1 / wide
    torch.testing.assert_close(p.log_prob(x).double(), wide * 0.25 - log_norm, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(p.mean[0].double(), mean, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(slope[0].double(), 0.25 - mean, rtol=1e-5, atol=1e-5)


def test_continuous_bernoulli_does_not_see_where_its_formulas_meet():
    eta = torch.tensor([-0.1, 0.1], dtype=torch.float64)[:, None] * torch.tensor([1 - 1e-9, 1 + 1e-9])
    p = likelihoods.ContinuousBernoulli(2)(eta)
    entry = p.base_dist.log_prob(torch.zeros_like(eta))
    for value in (entry, p.mean):
        torch.testing.assert_close(value[:, 0], value[:, 1], rtol=0, atol=1e-9)
    half = 0.5 * eta.abs() - torch.log(2 * torch.sinh(eta.abs() / 2) / eta.abs())
    torch.testing.assert_close(entry, half - torch.where(eta > 0, eta, 0), rtol=0, atol=1e-13)


def test_zero_inflation_scores_alike_before_and_after_a_draw():
    """A gate that rounds to 1 in float32 still leaves the other counts a probability, and a gradient."""
    h = torch.tensor([[1.0, 30.0]]).requires_grad_()
    p = likelihoods.ZeroInflatedNegativeBinomial(1, dispersion=0.5)(h)
    x = torch.tensor([[0.0], [4.0]])
    before = p.log_prob(x)
    p.sample()
    assert p.mean.isfinite().all()
    torch.testing.assert_close(p.log_prob(x), before)
    assert before[1] < -30
    assert torch.autograd.grad(p.log_prob(x).sum(), h)[0].isfinite().all()
    assert p.expand((3,)).sample().shape == (3, 1)
