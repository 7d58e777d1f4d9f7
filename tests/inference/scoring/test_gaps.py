"""The inference gap and its two parts, held against closed forms."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from setups import make_pair
from truth import BernoulliMixture, LinearGaussian

from pyro_vae.inference import evidence, gaps

TRUTH = LinearGaussian.random(2, 3, seed=4)


def _diagonal(x, shift=0.0, widen=1.0):
    """The best diagonal normal guide, moved off its optimum: its scales are those of the precision's diagonal."""
    q = TRUTH.posterior(x)
    scale = q.precision_matrix.diagonal(dim1=-2, dim2=-1).rsqrt()
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(q.loc + shift * scale, widen * scale).to_event(1))


def _kl(x):
    """KL(q* || posterior) of the best diagonal normal, the approximation gap."""
    q = TRUTH.posterior(x)
    scale = q.precision_matrix.diagonal(dim1=-2, dim2=-1).rsqrt()
    best = dist.MultivariateNormal(q.loc, torch.diag_embed(scale.square()))
    return torch.distributions.kl_divergence(best, q)


@pytest.mark.parametrize(("shift", "widen"), [(0.0, 1.0), (1.0, 1.0), (0.5, 1.8)])
def test_parts_equal_the_closed_forms(shift, widen):
    x = TRUTH.sample(30)
    result = gaps(TRUTH.model, lambda x: _diagonal(x, shift, widen), x, 3000, progress=False)
    q = TRUTH.posterior(x)
    moved = shift * q.precision_matrix.diagonal(dim1=-2, dim2=-1).rsqrt()
    lost = 0.5 * (moved[:, None] @ q.precision_matrix @ moved[..., None]).mean().item()
    lost += 2 * (0.5 * (widen**2 - 1) - math.log(widen))  # the scales are those of the precision's diagonal
    assert result.means["approximation"][0] == pytest.approx(_kl(x).mean().item(), abs=0.02)
    assert result.means["amortization"][0] == pytest.approx(lost, abs=0.02)
    torch.testing.assert_close(result.inference, result.approximation + result.amortization)
    assert "amortization" in str(result)


def test_an_exact_guide_has_no_gap():
    x = TRUTH.sample(10)
    result = gaps(TRUTH.model, TRUTH.exact_guide, x, 200, steps=50, progress=False)
    assert all(abs(mean) < 0.01 for mean, _ in result.means.values())


def test_modules_and_an_estimate_handed_in():
    model, guide = make_pair()
    x = torch.bernoulli(torch.full((12, 6), 0.5))
    reference = evidence(model, guide, x, 20_000, progress=False)
    result = gaps(model, guide, x, 1000, steps=100, log_px=reference, progress=False)
    assert result.log_px is reference
    assert result.means["amortization"][0] > 0
    assert result.means["approximation"][0] > -0.02
    with pytest.raises(ValueError, match="Expected the same data of all that are compared; the guide has"):
        gaps(model, guide, 1 - x, 30, steps=1, log_px=reference, progress=False)


def test_what_cannot_be_fitted_is_refused():
    truth = BernoulliMixture()
    with pytest.raises(ValueError, match="cannot be fitted to each datum"):
        gaps(truth, truth.guide, torch.ones(2, 4, dtype=torch.float64), 30, progress=False)
    with pytest.raises(ValueError, match="Expected steps to be an integer >= 1; got 0"):
        gaps(truth, truth.guide, torch.ones(2, 4, dtype=torch.float64), 30, steps=0)
