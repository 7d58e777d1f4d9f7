"""Distributions whose log densities cancel in float32: they are scored in float64, and drawn as torch draws them.

log x! of a count near 1e6 is 1e7, of which float32 keeps whole nats, where log p(x) is about -8; so do the constants of
a gamma or beta law of large concentration, and log x of a narrow log-normal. Values are exact at the stored parameters
to 1e-3 nats up to counts and concentrations of 1e9, and have the dtype of parameters and data.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints
from torch.nn.functional import logsigmoid, softplus

from pyro_vae.models.distributions.scalar import ScalarDistribution, log_gamma_ratio

SMALLEST = 1e-12
"""Dispersion below which the gradient of 1 / alpha overflows in float32."""


class ScoredInDouble:
    """Mixin: ``log_prob`` takes a value in float64 to ``_log_density``, and returns the dtype that torch would."""

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p(x), in nats."""
        if self._validate_args:  # type: ignore[attr-defined]
            self._validate_sample(value)  # type: ignore[attr-defined]
        dtype = torch.result_type(value, self._parameter())
        return self._log_density(value.double()).to(dtype)

    def _parameter(self) -> Tensor:
        """Return a parameter, whose dtype is that of the law."""
        raise NotImplementedError

    def _log_density(self, x: Tensor) -> Tensor:
        """Return log p(x) in float64, for x in float64."""
        raise NotImplementedError


class Poisson(ScoredInDouble, ScalarDistribution):
    """Counts of rate lambda, p(x) = exp(-lambda) lambda^x / x!, by log lambda."""

    arg_constraints: ClassVar = {"log_rate": constraints.real}
    support = constraints.nonnegative_integer
    log_rate: Tensor

    @property
    def mean(self) -> Tensor:
        """Mean lambda."""
        return self.log_rate.exp()

    @property
    def variance(self) -> Tensor:
        """Variance lambda."""
        return self.mean

    def sample(self, sample_shape: tuple[int, ...] = ()) -> Tensor:
        """Draw counts as floating point."""
        with torch.no_grad():
            return torch.poisson(self.mean.expand(self._extended_shape(sample_shape)))

    def _parameter(self) -> Tensor:
        return self.log_rate

    def _log_density(self, x: Tensor) -> Tensor:
        log_rate = self.log_rate.double()
        return x * log_rate - log_rate.exp() - (x + 1).lgamma()


class NegativeBinomial(ScoredInDouble, ScalarDistribution):
    """Counts of mean mu and variance mu + alpha mu^2, r = 1 / alpha.

        p(x) = Gamma(r + x) / (Gamma(r) x!) (mu / (r + mu))^x (r / (r + mu))^r

    It stays accurate as alpha falls to 0, the Poisson limit, where maximum likelihood sends alpha for counts whose
    variance is below their mean. An alpha below 1e-12 is scored as 1e-12.
    """

    arg_constraints: ClassVar = {"log_mean": constraints.real, "dispersion": constraints.positive}
    support = constraints.nonnegative_integer
    log_mean: Tensor
    dispersion: Tensor

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

    def _parameter(self) -> Tensor:
        return self.log_mean

    def _log_density(self, x: Tensor) -> Tensor:
        dispersion = self.dispersion.double().clamp(min=SMALLEST)
        r = dispersion.reciprocal()
        logit = self.log_mean.double() + dispersion.log()
        constant = log_gamma_ratio(r, x) - (x + 1).lgamma()
        return constant + x * logsigmoid(logit) + r * logsigmoid(-logit)


class Binomial(ScoredInDouble, dist.Binomial):
    """Counts out of n, p(x) = C(n, x) pi^x (1 - pi)^(n - x), by logits."""

    def _parameter(self) -> Tensor:
        return self.logits

    def _log_density(self, x: Tensor) -> Tensor:
        n, logits = self.total_count.double(), self.logits.double()
        constant = (n + 1).lgamma() - (x + 1).lgamma() - (n - x + 1).lgamma()
        return constant - x * softplus(-logits) - (n - x) * softplus(logits)


class Multinomial(ScoredInDouble, dist.Multinomial):
    """Multinomial that scores counts of any total n, p(x) = n! prod_i pi_i^x_i / x_i!, and draws those of one."""

    support = constraints.independent(constraints.nonnegative_integer, 1)

    def _parameter(self) -> Tensor:
        return self.logits

    def _log_density(self, x: Tensor) -> Tensor:
        log_pi = self.logits.double().log_softmax(-1)
        weighted = (x * log_pi).where(x > 0, 0.0)  # an impossible class without a count
        return (x.sum(-1) + 1).lgamma() + (weighted - (x + 1).lgamma()).sum(-1)


class Gamma(ScoredInDouble, dist.Gamma):
    """Positive numbers of mean m, p(x) = (alpha / m)^alpha x^(alpha - 1) exp(-alpha x / m) / Gamma(alpha).

    Args:
        log_mean: log m.
        concentration: alpha.
        validate_args: whether to check values and parameters; torch's default if absent.
    """

    def __init__(self, log_mean: Tensor, concentration: Tensor, validate_args: bool | None = None) -> None:
        self.log_mean = log_mean
        super().__init__(concentration, concentration * (-log_mean).exp(), validate_args=validate_args)

    def expand(self, batch_shape: torch.Size, _instance: Any = None) -> Gamma:
        """Return the distribution with its parameters expanded."""
        new = self._get_checked_instance(Gamma, _instance)
        new.log_mean = self.log_mean.expand(batch_shape)
        return super().expand(batch_shape, new)

    def _parameter(self) -> Tensor:
        return self.log_mean

    def _log_density(self, x: Tensor) -> Tensor:
        alpha, log_ratio = self.concentration.double(), x.log() - self.log_mean.double()
        constant = alpha * (alpha.log() - 1) - alpha.lgamma()
        return constant + alpha * (log_ratio - torch.expm1(log_ratio)) - x.log()


class Beta(ScoredInDouble, dist.Beta):
    """Numbers between 0 and 1 of mean m and precision kappa, Beta(x; kappa m, kappa (1 - m)).

    Args:
        logit: logit m.
        concentration: kappa.
        validate_args: whether to check values and parameters; torch's default if absent.
    """

    def __init__(self, logit: Tensor, concentration: Tensor, validate_args: bool | None = None) -> None:
        self.logit, self.precision = torch.broadcast_tensors(logit, concentration)
        counts = concentration * logit.sigmoid(), concentration * (-logit).sigmoid()
        super().__init__(*counts, validate_args=validate_args)

    def expand(self, batch_shape: torch.Size, _instance: Any = None) -> Beta:
        """Return the distribution with its parameters expanded."""
        new = self._get_checked_instance(Beta, _instance)
        new.logit, new.precision = self.logit.expand(batch_shape), self.precision.expand(batch_shape)
        return super().expand(batch_shape, new)

    def _parameter(self) -> Tensor:
        return self.logit

    def _log_density(self, x: Tensor) -> Tensor:
        logit, kappa = self.logit.double(), self.precision.double()
        a, b = kappa * logit.sigmoid(), kappa * (-logit).sigmoid()
        constant = kappa.lgamma() - a.lgamma() - b.lgamma()
        return constant + (a - 1) * x.log() + (b - 1) * (-x).log1p()


class LogNormal(ScoredInDouble, dist.LogNormal):
    """Positive numbers whose logarithm is normal, p(x) = N(log x; mu, sigma^2) / x."""

    def _parameter(self) -> Tensor:
        return self.loc

    def _log_density(self, x: Tensor) -> Tensor:
        log_x, scale = x.log(), self.scale.double()
        z = (log_x - self.loc.double()) / scale
        return -0.5 * z.square() - scale.log() - log_x - 0.5 * math.log(2 * math.pi)
