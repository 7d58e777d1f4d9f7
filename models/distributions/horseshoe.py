"""The horseshoe distribution, its scale summed out, and the exponential integral in its density."""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.distributions import constraints

SWITCH = 2.0
"""Where the series of E1 gives way to its continued fraction: both are exact to double precision there."""
SERIES_TERMS, FRACTION_DEPTH = 28, 60
EULER = 0.57721566490153286


class Horseshoe(dist.TorchDistribution):
    """The horseshoe distribution of one number.

    Args:
        scale: s, shape (...).
    """

    arg_constraints = {"scale": constraints.positive}  # noqa: RUF012
    support = constraints.real
    has_rsample = True

    def __init__(self, scale: Tensor, validate_args: bool | None = None) -> None:
        self.scale = scale
        super().__init__(scale.shape, validate_args=validate_args)

    def expand(self, batch_shape: torch.Size, _instance: Any = None) -> Horseshoe:
        """Return the distribution with a larger batch shape."""
        return type(self)(self.scale.expand(batch_shape), self._validate_args)

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        """Draw z, shape (*sample_shape, ...), reparameterised."""
        ones = torch.ones_like(self.scale).expand(self._extended_shape(sample_shape))
        return self.scale * torch.distributions.HalfCauchy(ones).sample() * torch.randn_like(ones)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p(z) in nats, of the shape that z and s broadcast to."""
        if self._validate_args:
            self._validate_sample(value)
        return log_scaled_e1(0.5 * (value / self.scale) ** 2) - self.scale.log() - 0.5 * math.log(2 * math.pi**3)


def log_scaled_e1(u: Tensor) -> Tensor:
    """Return log(exp(u) E1(u)) for u >= 0, twice differentiable; at the pole u = 0, its value at the least number."""
    bounds = torch.finfo(u.dtype)
    return _LogScaledE1.apply(u.clamp(bounds.tiny, bounds.max))


class _LogScaledE1(Function):
    @staticmethod
    def forward(ctx: Any, u: Tensor) -> Tensor:
        ctx.save_for_backward(u)
        return _scaled(1, u).log()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * _Slope.apply(*ctx.saved_tensors)


class _Slope(Function):
    """Derivative of log f, f = exp(u) E1(u): -exp(u) E2(u) / (u f), where 1 - 1 / (u f) would cancel for large u."""

    @staticmethod
    def forward(ctx: Any, u: Tensor) -> Tensor:
        f = _scaled(1, u)
        slope = -_scaled(2, u) / (u * f)
        ctx.save_for_backward(u, f, slope)
        return slope

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        u, f, slope = ctx.saved_tensors
        return gradient * (slope + 1 / (u * u * f) - slope**2)


def _scaled(order: int, u: Tensor) -> Tensor:
    """Return exp(u) E_n(u) for order n = 1 or 2 and u > 0."""
    small = u.clamp(max=SWITCH)
    near = small.exp() * _series(small)
    near = 1 - small * near if order == 2 else near  # E2(u) = exp(-u) - u E1(u)
    return torch.where(u < SWITCH, near, _fraction(order, u.clamp(min=SWITCH)))


def _series(u: Tensor) -> Tensor:
    """Return E1(u) = -gamma - log u - sum_k (-u)^k / (k k!) for small u."""
    total, term = -EULER - u.log(), torch.ones_like(u)
    for k in range(1, SERIES_TERMS):
        term = term * (-u / k)
        total = total - term / k
    return total


def _fraction(n: int, u: Tensor) -> Tensor:
    """Return exp(u) E_n(u) = 1 / (u + n - 1 n / (u + n + 2 - 2 (n + 1) / (u + n + 4 - ...))), from the inside out."""
    denominator = u + (n + 2 * FRACTION_DEPTH)
    for k in range(FRACTION_DEPTH, 0, -1):
        denominator = u + (n + 2 * (k - 1)) - k * (n + k - 1) / denominator
    return 1 / denominator
