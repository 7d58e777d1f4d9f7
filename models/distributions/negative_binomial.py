"""The negative binomial distribution by its mean and dispersion."""

from __future__ import annotations

from typing import ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints
from torch.nn.functional import logsigmoid

from pyro_vae.models.distributions.scalar import ScalarDistribution
from pyro_vae.models.distributions.special import log_gamma_ratio

SMALLEST = 1e-12
"""Dispersion below which the gradient of 1 / alpha overflows in float32."""


class NegativeBinomial(ScalarDistribution):
    """Counts of mean mu and variance mu + alpha mu^2, r = 1 / alpha.

        p(x) = Gamma(r + x) / (Gamma(r) x!) (mu / (r + mu))^x (r / (r + mu))^r

    As ``torch.distributions.NegativeBinomial``, but accurate in float32 as alpha falls to 0, the Poisson limit, which
    it is taken for below 1e-12: maximum likelihood sends alpha there for counts that vary less.
    """

    arg_constraints: ClassVar = {"log_mean": constraints.real, "dispersion": constraints.positive}
    support = constraints.nonnegative_integer
    log_mean: Tensor
    dispersion: Tensor

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p(x), in nats."""
        if self._validate_args:
            self._validate_sample(value)
        dispersion = self.dispersion.clamp(min=SMALLEST)
        r = dispersion.reciprocal()
        logit = self.log_mean + dispersion.log()
        constant = log_gamma_ratio(r, value) - (value + 1).lgamma()
        return constant + value * logsigmoid(logit) + r * logsigmoid(-logit)

    @property
    def mean(self) -> Tensor:
        """Mean mu."""
        return self.log_mean.exp()

    @property
    def variance(self) -> Tensor:
        """Variance mu + alpha mu^2."""
        return self.mean + self.dispersion * self.mean**2

    def sample(self, sample_shape: tuple[int, ...] = ()) -> Tensor:
        """Draw Poisson counts whose rates are gamma variables."""
        with torch.no_grad():
            r = self.dispersion.clamp(min=SMALLEST).reciprocal()
            return torch.poisson(dist.Gamma(r, r / self.mean, validate_args=False).sample(sample_shape))


class ZeroInflated(dist.ZeroInflatedDistribution):
    """Pyro's zero-inflated distribution by ``gate_logits``, which it scores by before and after a draw alike.

    There, computing the gate once replaces the logits: ``expand`` then fails, and a gate that rounds to 1 has
    gradient NaN.
    """

    @property
    def gate(self) -> Tensor:
        """Probability of an extra zero."""
        return self.gate_logits.sigmoid()
