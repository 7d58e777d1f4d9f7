"""The test of uniformity: its level, its power, and its band."""

from __future__ import annotations

import math

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from scipy import stats

from pyro_vae.inference.diagnostics import ecdf_band, uniformity
from pyro_vae.inference.diagnostics.uniformity import holm, random_ranks


@pytest.mark.parametrize(("num_data", "copies"), [(1, 1), (40, 1), (40, 4)])
def test_false_alarms_of_the_test_are_at_most_alpha(num_data, copies):
    # 400 repeats of 4 columns, independent or copies of one: 5% of them + 4 sd is 37.
    alarms = 0
    for _ in range(400):
        u = torch.rand(num_data, 4 // copies, dtype=torch.float64).repeat(1, copies)
        alarms += not uniformity(u, alpha=0.05).accepted
    assert alarms <= 37
    if num_data == 40 and copies == 1:
        assert alarms >= 5  # and not so cautious as to be of no use


def test_distance_and_p_value_are_those_of_scipy():
    u = torch.rand(57, 3, dtype=torch.float64) ** 1.3
    test = uniformity(u)
    for j in range(3):
        exact = stats.kstest(u[:, j].numpy(), "uniform", method="exact")
        assert test.distance[j].item() == pytest.approx(exact.statistic)
        assert test.raw_p_values[2, j].item() == pytest.approx(exact.pvalue)


@pytest.mark.parametrize("num_data", [2, 3, 6, 30])
def test_normal_law_of_the_mean_errs_on_the_safe_side(num_data):
    # Where it decides, from |z| = 2.39 (0.05 / 3) on, the tail of the sum of N uniforms is lighter.
    if not hasattr(stats, "irwinhall"):
        pytest.skip("scipy has had the law of a sum of uniforms since 1.15")
    z = np.linspace(2.39, 6, 50)
    tail = stats.irwinhall.sf(num_data / 2 + z * (num_data / 12) ** 0.5, num_data)
    assert (tail <= stats.norm.sf(z) * 1.001).all()


def test_each_test_finds_what_it_is_for():
    n = dist.Normal(torch.zeros(400, 5, dtype=torch.float64), 1.0)
    z = n.sample()
    z = torch.stack([z[:, 0] + 0.4, z[:, 1] - 0.4, 1.5 * z[:, 2], 0.6 * z[:, 3], z[:, 4]], -1)
    u = n.cdf(z)
    test = uniformity(u, ["low", "high", "narrow", "wide", "right"])
    assert test.faults == {"low": "too low", "high": "too high", "narrow": "too narrow", "wide": "too wide"}
    assert test.rejected.tolist() == [True] * 4 + [False]
    assert str(test).startswith("4 of 5 rejected at level 0.05, N=400: low too low, high too high")
    bumps = torch.linspace(0, 1, 402, dtype=torch.float64)[1:-1, None]
    bumps = bumps + 0.1 * torch.sin(4 * math.pi * bumps)  # mean and mean of |2u - 1| as they should be
    assert uniformity(bumps).faults == {"u[0]": "of another shape"}


def test_holm_by_hand():
    p = torch.tensor([0.04, 0.01, 0.5, 0.02], dtype=torch.float64)
    assert holm(p).tolist() == pytest.approx([0.08, 0.04, 0.5, 0.06])
    assert holm(torch.tensor([0.9, 0.8])).tolist() == [1.0, 1.0]


def test_refusals_of_the_test():
    with pytest.raises(ValueError, match=r"Expected u of shape \(N, M\)"):
        uniformity(torch.rand(5))
    with pytest.raises(ValueError, match="Expected u in"):
        uniformity(torch.tensor([[0.5], [math.nan]]))
    with pytest.raises(ValueError, match=r"Expected alpha in \(0, 1\); got 1.5"):
        uniformity(torch.rand(5, 1), alpha=1.5)
    with pytest.raises(ValueError, match="Expected num_points to be an integer >= 2; got 1"):
        ecdf_band(10, 1)


@pytest.mark.parametrize("num_draws", [1, 9])
def test_random_ranks_are_uniform_for_few_values(num_draws):
    # 20,000 ranks of a coin among coins: chi-squared at 1e-4, and KS of u at 1e-4.
    p = torch.tensor(0.3).expand(num_draws + 1, 20_000)
    coins = torch.bernoulli(p)
    ranks, u = random_ranks((coins[1:] < coins[0]).sum(0), (coins[1:] == coins[0]).sum(0), num_draws)
    assert ranks.dtype == torch.long
    assert stats.chisquare(ranks.bincount(minlength=num_draws + 1).numpy()).pvalue > 1e-4
    assert stats.kstest(u.numpy(), "uniform").pvalue > 1e-4
    assert ((u * (num_draws + 1)).floor().long() == ranks).all()


@pytest.mark.parametrize("num_data", [20, 500])
def test_band_holds_the_whole_ecdf_as_often_as_it_says(num_data):
    # 4,000 ECDFs: 0.9 has sd 0.005, and the calibration as much again. The binomial steps add a little coverage.
    points, low, high = ecdf_band(num_data, 50, level=0.9)
    u = np.sort(np.random.default_rng(5).random((4000, num_data)), 1)
    curves = np.stack([np.searchsorted(row, points.numpy(), side="right") for row in u]) / num_data
    inside = ((curves >= low.numpy()) & (curves <= high.numpy())).all(1).mean()
    assert 0.88 < inside < 0.94
    assert len(points) == 49


def test_band_is_that_of_arviz():
    ecdf_utils = pytest.importorskip("arviz.stats.ecdf_utils")
    points, low, high = ecdf_band(100, 20)
    expected = ecdf_utils.ecdf_confidence_band(100, points.numpy(), points.numpy(), prob=0.95, method="optimized")
    for found, exact in zip((low, high), expected, strict=True):
        assert np.abs(found.numpy() - exact).max() <= 0.01 + 1e-9  # one count of a hundred
