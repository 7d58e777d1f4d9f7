from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pyro_vae.inference.diagnostics import pareto_khat
from pyro_vae.inference.scoring.tail import tail_length


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
