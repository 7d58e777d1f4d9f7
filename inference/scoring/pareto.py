"""Pareto k-hat: whether importance weights can be trusted."""

from __future__ import annotations

import math
import warnings

import numpy as np
import torch
from torch import Tensor

FLAT = 1e-4
"""Largest weights within so many nats are equal: what is left in single precision is rounding."""


def tail_length(num_particles: int) -> int:
    """Return M, the number of largest weights that k-hat is fitted to.

    M = ceil(min(K / 5, 3 sqrt(K))).

    Source: Vehtari, Simpson, Gelman, Yao and Gabry (2024), Pareto Smoothed Importance Sampling, JMLR 25(72).
    """
    return math.ceil(min(num_particles / 5, 3 * math.sqrt(num_particles)))


def pareto_khat(log_w: Tensor) -> Tensor:
    """Return the Pareto shape k-hat of the upper tail of the weights, by ArviZ's own fit.

    Above 0.7 the estimate of log p(x) and its standard error cannot be trusted at this K. Below, they may
    still be wrong where the guide misses a mode: a sample that never visits it cannot show it.

    Args:
        log_w: log weights, shape (K, N).

    Returns:
        k-hat, shape (N,), float64: -inf where the M largest weights are equal to 1e-4 nats, +inf where no more than
        M of them are above 0, NaN where K < 26 leaves a tail of fewer than six.

    Source: Vehtari et al. (2024), Pareto Smoothed Importance Sampling, JMLR 25(72).
    """
    num_particles = log_w.shape[0]
    top = log_w.topk(min(tail_length(num_particles) + 1, num_particles), dim=0).values
    return khat_from_tail(top)


def khat_from_tail(top: Tensor) -> Tensor:
    """Return k-hat from the M + 1 largest log weights, shape (M + 1, N), in descending order.

    Raises nothing for a degenerate tail; see ``pareto_khat`` for what it returns.
    """
    tail = top.detach().double().cpu().T.numpy()
    num_tail = tail.shape[1] - 1
    if num_tail < 6:
        return torch.full((len(tail),), math.nan, dtype=torch.float64)
    khat = np.full(len(tail), np.inf)  # fewer than M + 1 weights above 0: all rests on a handful of draws
    finite = np.isfinite(tail).all(1)
    # Of the M largest alone: where they tie, as with discrete latents, they are bounded and there is nothing to fit.
    spread = np.subtract(tail[:, 0], tail[:, -2], where=finite, out=np.zeros(len(tail)))
    khat[finite] = -np.inf
    fitted = spread > FLAT
    if fitted.any():
        # ArviZ takes the top M of 5 M weights when r_eff <= 45 / M; those below the cutoff are never looked at.
        padding = np.repeat(tail[fitted, -1:] - 1.0, 4 * num_tail - 1, axis=1)
        khat[fitted] = _arviz_khat(np.concatenate([tail[fitted], padding], axis=1), min(1.0, 40 / num_tail))
    return torch.from_numpy(khat)


def _arviz_khat(log_w: np.ndarray, r_eff: float) -> np.ndarray:
    """Call the Pareto fit of ArviZ 0.x or 1.x on log weights of shape (N, K)."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"\s*ArviZ is undergoing", category=FutureWarning)
        import arviz as az
    with np.errstate(over="ignore"):  # in ArviZ's fit: a candidate of weight 1/inf = 0
        if hasattr(az, "psislw"):
            return np.asarray(az.psislw(log_w, reff=r_eff)[1])
        from arviz_stats.base import array_stats

        # ArviZ 1.x takes log likelihoods and negates them; 0.x takes the log weights themselves.
        return np.asarray(array_stats.psislw(-log_w, r_eff=r_eff)[1])
