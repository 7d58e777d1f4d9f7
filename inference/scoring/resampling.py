"""Sampling importance resampling of latents while weighted particles stream by."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class Resampler:
    """R draws of each datum's posterior, kept while chunks of K weighted particles pass.

    After a chunk each draw is replaced by one of the chunk's with probability sum of its weights / sum of all so far,
    so that in the end every draw is particle k with probability w_k / sum w. Memory: R latents a datum, never K.

    Args:
        num_draws: R.
        num_data: B.

    Source: Rubin (1988), Using the SIR Algorithm to Simulate Posterior Distributions; streamed as weighted reservoir
    sampling, Chao (1982).
    """

    def __init__(self, num_draws: int, num_data: int) -> None:
        self.num_draws = num_draws
        self.log_sum = torch.full((num_data,), -math.inf, dtype=torch.float64)
        self.latents: dict[str, Tensor] = {}
        """{site: draws, shape (R, B, ...)}."""

    def add(self, log_w: Tensor, values: dict[str, Tensor]) -> None:
        """Take in a chunk: log weights, shape (k, B), and {site: value, shape (k, B, ...)}."""
        log_w = log_w.double()
        possible = log_w.amax(0) > -math.inf
        chunk = log_w.logsumexp(0)
        self.log_sum = torch.logaddexp(self.log_sum.to(chunk.device), chunk)
        share = torch.where(possible, (chunk - self.log_sum).exp(), 0)
        weights = torch.where(possible, log_w.softmax(0), 1.0).T
        chosen = torch.multinomial(weights, self.num_draws, replacement=True).T  # (R, B)
        kept = torch.rand(chosen.shape, dtype=share.dtype, device=share.device) >= share
        for name, value in values.items():
            tail = [1] * (value.ndim - 2)
            fresh = value.take_along_dim(chosen.reshape(*chosen.shape, *tail), 0)
            before = self.latents.get(name, fresh)
            self.latents[name] = torch.where(kept.reshape(*kept.shape, *tail), before, fresh)
