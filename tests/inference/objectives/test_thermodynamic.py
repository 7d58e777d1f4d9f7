"""The thermodynamic variational objective, against exact answers."""

from __future__ import annotations

import math

import pytest
import torch
from programs import Coin, X, mean_gradient, within_errors

from pyro_vae.inference.objectives import ELBO, IWAE, TVO


def _coin_tvo(program, x, points, widths):
    log_q, log_w = program.terms(x)
    total = 0.0
    for b, width in zip(points, widths, strict=True):
        total = total + width * ((log_q + b * log_w).softmax(0) * log_w).sum(0)
    return total


def test_tvo_with_one_partition_is_the_elbo_and_rises_with_partitions_to_iwae_at_most():
    log_w = torch.randn(6, 50, dtype=torch.float64)
    values = [TVO(6, s).bound(log_w) for s in (1, 2, 5, 50, 2000)]
    torch.testing.assert_close(values[0], ELBO(6).bound(log_w))
    means = [value.mean().item() for value in values]
    assert means == sorted(means)
    # int_0^1 d/db log mean w^b db = log mean w: the left sums rise to it.
    torch.testing.assert_close(TVO(6, 20_000, beta_1=1e-4).bound(log_w), IWAE(6).bound(log_w), atol=2e-3, rtol=0)


def test_tvo_covariance_gradient_is_consistent():
    # 2,000 particles, 30 repeats x 60 data; the self-normalised bias is O(1/K): 5 standard errors and 0.003.
    program, objective = Coin(), TVO(2000, 3)
    points, widths = objective.partition(X)
    exact = program.gradient(_coin_tvo(program, X, points, widths).mean())
    mean, error = mean_gradient(program, objective, 30, copies=20)
    assert ((mean - exact).abs() < 5 * error + 3e-3).all(), (mean, exact, error)


@pytest.mark.parametrize("gradient", ["score", "vimco"])
def test_tvo_gradients_of_the_estimate_are_unbiased(gradient):
    program, objective = Coin(), TVO(3, 2, gradient=gradient)
    exact = program.gradient(program.exact(objective.bound, 3, X).mean())
    within_errors(*mean_gradient(program, objective, 60), exact)


def test_tvo_of_a_particle_of_weight_zero_is_minus_infinity_as_the_elbo_is():
    log_w = torch.tensor([[0.0], [-math.inf]])
    assert TVO(2, 3).bound(log_w).item() == -math.inf
