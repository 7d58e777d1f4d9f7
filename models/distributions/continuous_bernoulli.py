"""The continuous Bernoulli distribution in its natural parameter."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_vae.models.distributions.scalar import ScalarDistribution

SERIES = 0.1
"""Below it power series replace the formulas, whose gradients cancel."""


class ContinuousBernoulli(ScalarDistribution):
    """Distribution on [0, 1] of density p(x) = exp(eta x) eta / (exp(eta) - 1), with eta = ``logits``.

    torch's own goes through probabilities clamped to the machine's accuracy, so that in float32 its normaliser
    stops at |eta| = 16, where background pixels take eta much further.
    """

    arg_constraints: ClassVar = {"logits": constraints.real}
    support = constraints.unit_interval
    logits: Tensor

    def log_prob(self, value: Tensor) -> Tensor:
        """Return eta x - log((exp(eta) - 1) / eta), in nats."""
        if self._validate_args:
            self._validate_sample(value)
        a = self.logits.abs().clamp(min=SERIES)
        far = self.logits.relu() + torch.log(-torch.expm1(-a) / a)
        square = self.logits.clamp(-SERIES, SERIES) ** 2
        near = self.logits / 2 + square * (1 / 24 - square * (1 / 2880 - square / 181440))
        return self.logits * value - torch.where(self.logits.abs() > SERIES, far, near)

    @property
    def mean(self) -> Tensor:
        """Mean, 1 / (1 - exp(-eta)) - 1 / eta."""
        a = self.logits.abs().clamp(min=SERIES)
        upper = -1 / torch.expm1(-a) - 1 / a
        far = torch.where(self.logits > 0, upper, 1 - upper)
        eta = self.logits.clamp(-SERIES, SERIES)
        near = 0.5 + eta * (1 / 12 - eta**2 * (1 / 720 - eta**2 / 30240))
        return torch.where(self.logits.abs() > SERIES, far, near)

    def sample(self, sample_shape: tuple[int, ...] = ()) -> Tensor:
        """Draw by inverting the distribution function."""
        with torch.no_grad():
            a = self.logits.abs().clamp(min=1e-6)  # uniform to within 1e-6 at 0
            lower = -torch.log1p(self._uniform(sample_shape) * torch.expm1(-a)) / a
            return torch.where(self.logits > 0, 1 - lower, lower).clamp(0, 1)
