"""The thermodynamic variational objective: a Riemann sum along the path from the guide to the posterior."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from pyro_vae.core.checks import check_positive_int
from pyro_vae.inference.objectives.base import Objective
from pyro_vae.inference.objectives.gradients import at_fixed_draws, with_gradient_of
from pyro_vae.inference.programs.call import Args, Program

LOWEST = -1e30  # stands for log 0 where 0 times it must be 0


class TVO(Objective):
    """Thermodynamic variational objective, a left Riemann sum of log p(x) = int_0^1 E_b[log w] db.

    E_b is the expectation under pi_b proportional to q(z|x)^(1-b) p(x, z)^b, which rises with b, so that the left
    sum is a lower bound; with one partition it is the ELBO. Each E_b is estimated by self-normalised weights w^b
    of the same K particles.

    Args:
        num_particles: K, at least 2 for "covariance" and "vimco".
        num_partitions: S, number of intervals: from 0 to beta_1, then evenly in log b up to 1.
        beta_1: the first point after 0.
        gradient: "covariance", the paper's: consistent in K, for any guide; "pathwise", "score" or "vimco", that
            of the K-particle estimate itself.
        chunk_size: largest number of (particle, datum) pairs whose graph is in memory at once, all if absent; see
            ``IWAE``.

    Raises:
        ValueError: if ``beta_1`` is not in (0, 1), or K = 1 with "covariance" or "vimco".

    Source: Masrani, Le and Wood (2019), The Thermodynamic Variational Objective, equations 6, 8 and 11.
    """

    gradients: ClassVar = ("covariance", "pathwise", "score", "vimco")

    def __init__(
        self,
        num_particles: int = 50,
        num_partitions: int = 5,
        beta_1: float = 0.1,
        gradient: str = "covariance",
        chunk_size: int | None = None,
    ) -> None:
        super().__init__(num_particles, gradient, chunk_size)
        check_positive_int(num_partitions, "num_partitions")
        if not 0 < beta_1 < 1:
            raise ValueError(f"Expected beta_1 in (0, 1); got {beta_1!r}.")
        self.num_partitions, self.beta_1 = num_partitions, beta_1

    def partition(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return the left points b_0 = 0, b_1, ..., b_{S-1}, and the widths of the intervals, each of shape (S,)."""
        inner = torch.logspace(math.log10(self.beta_1), 0, self.num_partitions, device=like.device).to(like)
        inner[-1] = 1.0
        points = torch.cat([torch.zeros_like(inner[:1]), inner])
        return points[:-1], points.diff()

    def bound(self, log_w: Tensor) -> Tensor:
        """Return the sum of the widths times the weighted means of log w."""
        points, widths = self.partition(log_w)
        weights = (points[:, None, None] * log_w.nan_to_num(neginf=LOWEST)).softmax(1)
        terms = weights * log_w.masked_fill(log_w == -math.inf, 0.0)
        bound = (widths[:, None] * terms.sum(1)).sum(0)
        return bound.masked_fill((log_w == -math.inf).any(0), -math.inf)  # as the ELBO, its first term

    def surrogate(self, model: Program, guide: Program, args: Args) -> Tensor:
        """Return a tensor of shape (B,) with the bound's value and the chosen estimator's gradient."""
        if self.gradient != "covariance":
            return super().surrogate(model, guide, args)
        log_w, _, log_q = at_fixed_draws(self, model, guide, args)
        fixed = log_w.detach()
        points, widths = self.partition(fixed)
        weights = (points[:, None, None] * fixed).softmax(1)
        centred = fixed - (weights * fixed).sum(1, keepdim=True)
        # d E_b[f] = E_b[df] + Cov_b(f, d log pi_b), where log pi_b = log q + b log w up to a constant
        path = log_q + points[:, None, None] * log_w
        total = (weights * (log_w + centred * path)).sum(1)
        return with_gradient_of(self.bound(fixed), (widths[:, None] * total).sum(0))
