"""The logistic distribution in bins, for the levels of images."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.nn.functional import logsigmoid

from pyro_vae.models.distributions.scalar import ScalarDistribution


class DiscretizedLogistic(ScalarDistribution):
    """Level x of L, P(x) = sigma((y + d - mu) / s) - sigma((y - d - mu) / s), y = 2 x / (L - 1) - 1, d = 1 / (L - 1).

    The first and the last bin reach to infinity. With a = (y - d - mu) / s, b = a + 2 d / s, the difference is taken
    without cancellation as sigma(b) sigma(-a) (1 - exp(a - b)).
    """

    arg_constraints: ClassVar = {"loc": constraints.real, "scale": constraints.positive}
    loc: Tensor
    scale: Tensor
    num_classes: int

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> Any:
        """Level numbers."""
        return constraints.integer_interval(0, self.num_classes - 1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log P(x), in nats."""
        if self._validate_args:
            self._validate_sample(value)
        last = self.num_classes - 1
        below = logsigmoid(self._standardized(value + 0.5))  # log of the probability of no larger level
        above = logsigmoid(-self._standardized(value - 0.5))
        inside = below + above + torch.log(-torch.expm1(-2 / (last * self.scale)))
        return torch.where(value == 0, below, torch.where(value == last, above, inside))

    @property
    def mean(self) -> Tensor:
        """Mean level, the sum over levels k >= 1 of P(X >= k)."""
        total = torch.zeros_like(self.loc)
        for level in range(1, self.num_classes):
            total = total + (-self._standardized(level - 0.5)).sigmoid()
        return total

    def sample(self, sample_shape: tuple[int, ...] = ()) -> Tensor:
        """Draw levels as floating point."""
        with torch.no_grad():
            y = self.loc + self.scale * self._uniform(sample_shape).logit()
            last = self.num_classes - 1
            return ((y + 1) / 2 * last).round().clamp(0, last)

    def _standardized(self, level: Tensor | float) -> Tensor:
        return (2 * level / (self.num_classes - 1) - 1 - self.loc) / self.scale
