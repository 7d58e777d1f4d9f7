"""Draws from the posterior by resampling have its law."""

from __future__ import annotations

import warnings

import pyro.distributions as dist
import pytest
import torch
from truth import LinearGaussian

from pyro_vae.inference.scoring.posterior import posterior_draws

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", category=FutureWarning)
from scipy import stats

from pyro_vae.inference.scoring.posterior import Resampler


def test_posterior_draws_have_the_exact_moments():
    # A guide too wide and shifted: 2,000 draws of each of 8 data, their mean at 5 standard errors (ESS of the
    # 1,000 weighted draws included), their covariance likewise.
    truth = LinearGaussian.random(2, 3)
    x = truth.sample(8)
    drawn = posterior_draws(truth.model, truth.guide(1.4, 0.3), (x,), 2000, 20_000)
    posterior = truth.posterior(x)
    error = posterior.stddev * (1 / 2000 + 3 / 20_000) ** 0.5
    assert ((drawn.latents["z"].mean(0) - posterior.mean).abs() < 5 * error).all()
    assert ((drawn.latents["z"].var(0) / posterior.variance - 1).abs() < 5 * (2 / 2000 + 6 / 20_000) ** 0.5).all()
    likelihood = dist.Normal(drawn.latents["z"] @ truth.weight.T + truth.bias, truth.scale).to_event(1)
    residual = (drawn.predictive["x"] - likelihood.mean) / truth.scale
    assert residual.std().item() == pytest.approx(1.0, abs=5 / (2 * residual.numel()) ** 0.5)


@pytest.mark.parametrize("chunks", [[6], [1, 2, 3], [5, 1]])
def test_resampled_latents_have_the_law_of_the_weights(chunks):
    # 40,000 draws over 6 particles, one of weight 0: chi-squared at 1e-4 for each of 2 data.
    log_w = torch.tensor([[0.1, 0.2, 0.0, 0.3, 0.35, 0.05], [3, 1, 1, 1, 1, 1]]).log().T
    particles = torch.arange(6.0)[:, None].expand(6, 2)
    resampler = Resampler(40_000, 2)
    for weights, values in zip(log_w.split(chunks), particles.split(chunks), strict=True):
        resampler.add(weights, {"z": values, "y": values[..., None] * torch.ones(3)})
    for n in range(2):
        weights = log_w[:, n].softmax(0).double()
        seen = resampler.latents["z"][:, n].long().bincount(minlength=6)
        assert (seen[weights == 0] == 0).all()
        some = weights > 0
        expected = 40_000 * weights[some] / weights[some].sum()
        assert stats.chisquare(seen[some].numpy(), expected.numpy()).pvalue > 1e-4
    assert torch.equal(resampler.latents["y"][..., 2], resampler.latents["z"])
    torch.testing.assert_close(resampler.log_sum, log_w.double().logsumexp(0))
