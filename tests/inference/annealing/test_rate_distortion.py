"""The rate-distortion curve against the closed form of the linear-Gaussian model."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import MultivariateNormal, kl_divergence
from truth import BernoulliMixture, LinearGaussian

from pyro_vae.inference import diagnostics, rate_distortion_curve

TRUTH = LinearGaussian.random(2, 3)


def _exact(x, beta):
    """q_beta is the posterior of a model whose noise has the standard deviation sigma / sqrt(beta)."""
    prior = MultivariateNormal(torch.zeros(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64))
    if beta == 0:
        q = prior.expand((len(x),))
    else:
        q = LinearGaussian(TRUTH.weight, TRUTH.bias, TRUTH.scale / math.sqrt(beta)).posterior(x)
    residual = x - q.mean @ TRUTH.weight.T - TRUTH.bias
    spread = (TRUTH.weight @ q.covariance_matrix @ TRUTH.weight.T).diagonal(dim1=-2, dim2=-1)
    error = (residual.square() + spread).sum(-1) / (2 * TRUTH.scale**2)
    distortion = error + 3 * math.log(TRUTH.scale * math.sqrt(2 * math.pi))
    return kl_divergence(q, prior).mean().item(), distortion.mean().item()


def test_curve_is_the_closed_form():
    # 40 data, 60 chains, 150 temperatures: 0.1 nats is several times the error that 20 seeds show.
    x = TRUTH.sample(40)
    curve = rate_distortion_curve(TRUTH.model, x, num_particles=60, num_temperatures=150, progress=False)
    for i in (0, 40, 75, 110, 150):
        rate, distortion = _exact(x, curve.beta[i].item())
        assert curve.rate[i].item() == pytest.approx(rate, abs=0.1)
        assert curve.distortion[i].item() == pytest.approx(distortion, abs=0.03 * distortion + 0.1)
    log_px = TRUTH.marginal.log_prob(x).mean().item()
    assert -(curve.rate[-1] + curve.distortion[-1]).item() == pytest.approx(log_px, abs=0.05)
    assert (curve.beta[0], curve.beta[-1], curve.rate[0]) == (0, 1, 0)
    assert (curve.rate[1:] - curve.rate[:-1] > -0.1).all()
    assert "at rate 0" in str(curve)


def test_a_guide_lies_above_it_and_the_posterior_on_it():
    x = TRUTH.sample(40)
    curve = rate_distortion_curve(TRUTH.model, x, num_particles=30, num_temperatures=100, progress=False)
    wide = 2 * (0.5 * (1.8**2 - 1) - math.log(1.8))  # KL of a posterior whose two scales are 1.8 times too large
    for guide, loss in ((TRUTH.exact_guide, 0.0), (TRUTH.guide(1.8), wide)):
        point = diagnostics.rate_distortion(TRUTH.model, guide, x, progress=False)
        lost = sum(point.mean) - (curve.rate[-1] + curve.distortion[-1]).item()
        assert lost == pytest.approx(loss, abs=0.15)


def test_chunks_seed_and_what_is_refused():
    x = TRUTH.sample(5)
    state = torch.get_rng_state()
    settings = dict(num_particles=4, num_temperatures=10, progress=False)
    first, again = (rate_distortion_curve(TRUTH.model, x, **settings) for _ in range(2))
    chunked = rate_distortion_curve(TRUTH.model, x, chunk_size=8, **settings)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.rate, again.rate)
    assert chunked.rate.shape == first.rate.shape == (11,)
    with pytest.raises(ValueError, match="Expected num_particles to be an integer >= 1; got 0"):
        rate_distortion_curve(TRUTH.model, x, num_particles=0)
    with pytest.raises(ValueError, match="site 'z'"):
        rate_distortion_curve(BernoulliMixture(), torch.ones(2, 4, dtype=torch.float64), **settings)
