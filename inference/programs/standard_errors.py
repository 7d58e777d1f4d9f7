"""Standard errors: of a mean over data, of a mean of estimates with known variances, and of log mean_k w_k."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyro_vae.core.checks import check_int


def standard_error(values: Tensor) -> Tensor:
    """Return the standard error of the mean over data, s / sqrt(N).

    Args:
        values: independent values, shape (N, ...).

    Returns:
        shape (...), NaN for N = 1.
    """
    return values.std(0) / math.sqrt(len(values)) if len(values) > 1 else values[0] * math.nan


def monte_carlo_error(variance: Tensor, num_particles: int = 1) -> Tensor:
    """Return the Monte Carlo standard error of a mean over data of means over particles, sqrt(sum_n s_n^2 / K) / N.

    Args:
        variance: s_n^2 of each datum, over its particles, shape (N, ...).
        num_particles: K; 1 where the variances are those of the means already.

    Returns:
        shape (...).
    """
    return variance.sum(0).div(num_particles).sqrt() / len(variance)


def error_of_log_mean(count_by_ess: Tensor, num_particles: int) -> Tensor:
    """Return the delta method's standard error of log mean_k w_k, NaN for K = 1.

        se^2 = Var(w) / (K mean(w)^2) = (K / ESS - 1) / (K - 1),   ESS = (sum w)^2 / sum w^2

    with the unbiased sample variance of w.

    Args:
        count_by_ess: K / ESS, any shape.
        num_particles: K.
    """
    if num_particles == 1:
        return torch.full_like(count_by_ess, math.nan)
    return ((count_by_ess - 1).clamp(min=0) / (num_particles - 1)).sqrt()


def mean_and_variance(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and variance over particles of values (K, ...), in double precision on the CPU; NaN for K = 1."""
    values = values.double().cpu()
    return values.mean(0), values.var(0) if len(values) > 1 else torch.full_like(values[0], math.nan)


def check_two(value: int, name: str) -> None:
    """Refuse fewer than the two that a variance takes, with a ``ValueError``."""
    check_int(value, name, 2, "A variance takes two.")
