"""Likelihoods of counts."""

from __future__ import annotations

import pyro.distributions as dist
from torch import Tensor
from torch.distributions import constraints

from pyro_vae._checks import check_positive_int
from pyro_vae._parts import Shape
from pyro_vae.models.likelihoods.base import Likelihood


class Binomial(Likelihood):
    """Independent binomial counts out of n, p(x|z) = prod_i C(n, x_i) pi_i^x_i (1 - pi_i)^(n - x_i).

    Args:
        event_shape: shape of one datum.
        total_count: n, the largest possible count.
    """

    def __init__(self, event_shape: Shape, total_count: int) -> None:
        super().__init__(event_shape)
        check_positive_int(total_count, "total_count")
        self.total_count = total_count
        self.support = constraints.integer_interval(0, total_count)

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        """Return p(x|z) for logits h of shape (..., num_features)."""
        return dist.Binomial(self.total_count, logits=self._to_event(h)).to_event(len(self.event_shape))
