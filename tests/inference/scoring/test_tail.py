"""Weights streamed in chunks: sums, the curve of bounds, the jackknife, and the tail."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pyro_vae.inference.diagnostics import pareto_khat
from pyro_vae.inference.scoring.tail import BoundCurve, JackknifeStream, WeightStream, jackknife, tail_length


@pytest.mark.parametrize("num_particles", [7, 64, 500])
def test_answer_does_not_depend_on_chunks_of_weights(num_particles):
    log_w = torch.randn(num_particles, 3, dtype=torch.float64) * 2
    sizes = {"whole": [num_particles], "ragged": [1, 2, 3, *[1] * (num_particles - 6)]}
    summaries = []
    for chunks in sizes.values():
        stream = WeightStream(3, num_particles, log_w.device)
        for chunk in log_w.split(chunks):
            stream.add(chunk)
        summaries.append(stream.summary())
    whole, ragged = summaries
    for name in ("log_px", "std_error", "ess", "elbo", "khat"):
        torch.testing.assert_close(getattr(whole, name), getattr(ragged, name), equal_nan=True)
    w = log_w.exp()
    torch.testing.assert_close(whole.log_px, w.mean(0).log())
    torch.testing.assert_close(whole.std_error, w.std(0) / w.mean(0) / num_particles**0.5)
    torch.testing.assert_close(whole.ess, w.sum(0) ** 2 / (w**2).sum(0))
    torch.testing.assert_close(whole.elbo, log_w.mean(0))
    assert whole.bounds.keys() == ragged.bounds.keys()
    for k in whole.bounds:
        torch.testing.assert_close(whole.bounds[k], ragged.bounds[k])


def test_curve_is_the_mean_over_disjoint_blocks():
    log_w = torch.randn(11, 2, dtype=torch.float64)
    curve = BoundCurve()
    for chunk in log_w.split([3, 4, 1, 3]):
        curve.add(chunk)
    bounds = curve.bounds()
    assert list(bounds) == [1, 2, 4, 8]
    for k, bound in bounds.items():
        whole_blocks = log_w[: 11 // k * k].unflatten(0, (-1, k))
        torch.testing.assert_close(bound, (whole_blocks.logsumexp(1) - math.log(k)).mean(0))


@pytest.mark.parametrize("spread", [0.1, 1.0, 20.0, 800.0])
def test_jackknife_equals_leaving_out_one_at_a_time(spread):
    log_w = spread * torch.randn(9, 4, dtype=torch.float64) - 1000
    estimate, error = jackknife(log_w)
    bound = log_w.logsumexp(0) - math.log(9)
    without = [torch.cat([log_w[:i], log_w[i + 1 :]]).logsumexp(0) - math.log(8) for i in range(9)]
    pseudo = torch.stack([9 * bound - 8 * left for left in without])
    torch.testing.assert_close(estimate, pseudo.mean(0), atol=1e-6, rtol=1e-9)
    torch.testing.assert_close(error, pseudo.std(0) / 3, atol=1e-6, rtol=1e-9)
    stream = JackknifeStream(4, 9, log_w.device)
    for chunk in log_w.split([2, 6, 1]):
        stream.add(chunk)
    torch.testing.assert_close(stream.summary().log_px, estimate)
    torch.testing.assert_close(stream.summary().bounds[9], bound)


def test_jackknife_of_weights_that_are_nearly_all_0():
    log_w = torch.tensor([[-1.0, -math.inf], [-math.inf, -math.inf], [-math.inf, -math.inf]], dtype=torch.float64)
    estimate, error = jackknife(log_w)
    torch.testing.assert_close(estimate, torch.tensor([-1.0 - math.log(3), -math.inf], dtype=torch.float64))
    assert error.isnan().all()


def _pareto(shape: float, size: tuple[int, ...]) -> torch.Tensor:
    """Log of generalised Pareto draws with tail shape k, by inversion."""
    u = torch.rand(size, dtype=torch.float64)
    return ((u**-shape - 1) / shape).log()


@pytest.mark.parametrize("shape", [0.2, 0.5, 1.0])
def test_khat_finds_a_known_tail(shape):
    # 40 fits of 1,341 tail draws, sd about 0.04 each: the mean of 40 lies within 0.05 but once in millions.
    khat = pareto_khat(_pareto(shape, (200_000, 40)))
    assert khat.shape == (40,)
    assert khat.mean().item() == pytest.approx(shape, abs=0.05)


def test_sign_is_that_of_the_weights():
    """Weights bounded above are fine however close to 0 they come; their reciprocals have shape 1.5."""
    heavy_below = -1.5 * torch.distributions.Exponential(torch.tensor(1.0).double()).sample((5000, 20))
    assert (pareto_khat(heavy_below) < 0.7).all()
    assert (pareto_khat(-heavy_below) > 0.7).all()


@pytest.mark.parametrize("num_particles", [30, 200, 226, 2000])
def test_tail_alone_gives_what_arviz_gives_for_all_weights(num_particles):
    az = pytest.importorskip("arviz")
    if not hasattr(az, "psislw"):
        pytest.skip("ArviZ 1.x rounds the tail length down, 0.x up as here")
    log_w = _pareto(0.6, (num_particles, 5))
    expected = az.psislw(log_w.T.numpy().copy())[1]
    np.testing.assert_allclose(pareto_khat(log_w).numpy(), expected, rtol=1e-10)


def test_degenerate_tails():
    assert (pareto_khat(torch.full((100, 3), -7.0)) == -math.inf).all()
    assert pareto_khat(torch.randn(25, 3)).isnan().all()
    assert pareto_khat(torch.randn(26, 3)).isfinite().all()
    handful = torch.full((100, 2), -math.inf)
    handful[:3] = 0.0
    assert (pareto_khat(handful) == math.inf).all()
    assert tail_length(100) == 20
    assert tail_length(10_000) == 300


def test_ties_of_discrete_latents_are_bounded_weights():
    log_w = torch.where(torch.rand(1000, 1) < 0.3, 2.0, -5.0)
    assert pareto_khat(log_w).tolist() == [-math.inf]
