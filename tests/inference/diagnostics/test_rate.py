"""Rate and distortion, and the surgery of the ELBO: closed forms and quadrature."""

from __future__ import annotations

import math

import pyro.distributions as dist
import pytest
import torch
from programs import chain_guide
from truth import Diagonal, LinearGaussian

from pyro_vae.inference.diagnostics import elbo_surgery, rate_distortion
from pyro_vae.inference.diagnostics.rate import _log_aggregated
from pyro_vae.inference.programs.plates import Plates

quiet = {"progress": False, "device": "cpu"}


def test_rate_and_distortion_are_the_closed_forms():
    truth = Diagonal()
    x = truth.sample(300)
    q = truth.posterior(x)
    rate = 0.5 * (q.variance + q.loc.square() - 1 - q.variance.log()).sum(-1)
    residual = (x - truth.bias - q.loc @ truth.weight.T).square().sum(-1)
    trace = (truth.weight @ q.covariance_matrix @ truth.weight.T).diagonal(dim1=-2, dim2=-1).sum(-1)
    distortion = 2 * math.log(2 * math.pi * 0.49) + (residual + trace) / 0.98
    found = rate_distortion(truth.model, truth.diagonal_guide, x, num_particles=400, **quiet)
    torch.testing.assert_close(found.rate, rate)
    error = found.distortion - distortion
    assert abs(error.mean()) < 5 * error.std() / 300**0.5 < 0.05
    # The exact guide's ELBO is log p(x).
    torch.testing.assert_close(found.elbo, truth.marginal.log_prob(x), atol=0.5, rtol=0)
    assert found.elbo.mean().item() == pytest.approx(truth.marginal.log_prob(x).mean().item(), abs=0.03)
    assert found.mean == (found.rate.mean().item(), found.distortion.mean().item())
    assert found.stderr[0] == pytest.approx(rate.std().item() / 300**0.5)


def _by_quadrature(loc, scale):
    """Return mutual information and marginal KL of the mixture of N(loc_n, scale^2), against N(0, 1)."""
    z = torch.linspace(-15, 15, 30_001, dtype=torch.float64)
    log_q = dist.Normal(loc[:, None], scale).log_prob(z).logsumexp(0) - math.log(len(loc))
    entropy = -torch.trapezoid(log_q.exp() * log_q, z)
    marginal = -entropy - torch.trapezoid(log_q.exp() * dist.Normal(0.0, 1.0).log_prob(z), z)
    return (entropy - dist.Normal(0.0, scale).entropy()).item(), marginal.item()


@pytest.mark.parametrize(("widen", "shift"), [(1.0, 0.0), (0.5, 0.0), (1.0, 2.0)])
def test_surgery_agrees_with_quadrature(widen, shift):
    # Four comparisons at 5 standard errors.
    truth = LinearGaussian.random(1, 2, scale=0.5)
    x = truth.sample(40)
    q = truth.posterior(x)
    sd = q.scale_tril[0, 0, 0]
    information, marginal = _by_quadrature(q.loc[:, 0] + shift * sd, widen * sd)
    found = elbo_surgery(truth.model, truth.guide(widen, shift), x, num_particles=50, **quiet)
    assert abs(found.mutual_information - information) < 5 * found.mutual_information_error < 0.2
    assert abs(found.marginal_kl - marginal) < 5 * found.marginal_kl_error < 0.5
    assert found.kl == pytest.approx(found.mutual_information + found.marginal_kl)


def test_surgery_finds_the_limits_of_many_data():
    # As N grows the exact guide's q(z) becomes the prior, and the information I(x; z) = 1/2 log det(I + W'W / s^2).
    truth = LinearGaussian.random(2, 3, scale=2.0)
    found = elbo_surgery(truth.model, truth.exact_guide, truth.sample(1000), **quiet)
    identity = torch.eye(2, dtype=torch.float64)
    expected = 0.5 * torch.logdet(identity + truth.weight.T @ truth.weight / 4.0).item()
    assert found.mutual_information == pytest.approx(expected, abs=0.1)
    assert abs(found.marginal_kl) < 0.05


def test_mutual_information_lies_between_0_and_log_n():
    truth = LinearGaussian.random(1, 2, scale=0.01)
    spread = 100 * torch.arange(6, dtype=torch.float64)[:, None].expand(6, 2)
    apart = elbo_surgery(truth.model, truth.exact_guide, spread, **quiet)
    assert apart.mutual_information == pytest.approx(math.log(6)) == apart.bound
    same = elbo_surgery(truth.model, truth.exact_guide, spread[:1].expand(6, 2), **quiet)
    assert same.mutual_information == pytest.approx(0.0, abs=1e-9)
    assert "at most log N = 1.79" in str(apart)


def test_standard_error_of_surgery_is_that_of_repeats():
    # 60 repeats: their sd is known to 9%; 0.6 to 1.5 is more than 4 standard errors away on both sides.
    truth = LinearGaussian.random(1, 2)
    x = truth.sample(30)
    runs = [elbo_surgery(truth.model, truth.guide(1.3), x, seed=s, **quiet) for s in range(60)]
    for name in ("mutual_information", "marginal_kl"):
        values = torch.tensor([getattr(run, name) for run in runs])
        claimed = torch.tensor([getattr(run, f"{name}_error") for run in runs]).square().mean().sqrt()
        assert 0.6 < values.std() / claimed < 1.5


@pytest.mark.parametrize("chunk_size", [1, 7, 64, 10_000])
@pytest.mark.parametrize("particles", ["one by one", "plate", "copies"])
def test_aggregated_density_does_not_depend_on_chunks(chunk_size, particles):
    x = torch.randn(9, dtype=torch.float64)
    draws = {name: torch.randn(11, 1, dtype=torch.float64) for name in ("z1", "z2")}
    found = _log_aggregated(chain_guide, (x,), draws, chunk_size, Plates(1, 1, particles))
    each = dist.Normal(x / 3, (2 / 3) ** 0.5).log_prob(draws["z1"])
    each = each + dist.Normal((draws["z1"] + x) / 2, 0.5**0.5).log_prob(draws["z2"])
    torch.testing.assert_close(found, each.logsumexp(1) - math.log(9))
