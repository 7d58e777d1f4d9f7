"""Priors of sparse codes, most entries at 0 or near it."""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.distributions import constraints

from pyro_vae.models.priors.base import Prior, keep, log_of, logit_of


class Laplace(Prior):
    """Independent Laplace entries, p(z) = prod_i exp(-|z_i| / b) / (2 b).

    Under a guide that is a point mass it is the L1 penalty sum_i |z_i| / b.

    Args:
        dim: latent dimension D.
        scale: b; the standard deviation is b sqrt(2).
        learnable: learn b of each dimension, from this value on.

    Raises:
        ValueError: if ``scale`` is not positive.
    """

    log_scale: Tensor

    def __init__(self, dim: int, scale: float = 1.0, learnable: bool = False) -> None:
        super().__init__()
        keep(self, "log_scale", log_of(scale, "scale", dim), learnable)

    def forward(self) -> dist.TorchDistribution:
        """Return p(z), batch shape (), event shape (D,)."""
        return dist.Laplace(torch.zeros_like(self.log_scale), self.log_scale.exp()).to_event(1)


class SpikeAndSlab(Prior):
    """Independent entries, near 0 or free, p(z) = prod_i (1 - p) N(z_i; 0, s_0^2) + p N(z_i; 0, s_1^2).

    The spike is a narrow normal, so that there is a density and a gradient; one of width 0 would have neither.

    Args:
        dim: latent dimension D.
        p: probability of the slab.
        spike_scale: s_0.
        slab_scale: s_1.
        learnable: learn p, s_0 and s_1 of each dimension, from these values on.

    Raises:
        ValueError: unless 0 < p < 1 and 0 < s_0 < s_1.

    Source: George and McCulloch (1993), Variable Selection via Gibbs Sampling.
    """

    logit: Tensor
    log_scale: Tensor

    def __init__(
        self, dim: int, p: float = 0.1, spike_scale: float = 0.05, slab_scale: float = 1.0, learnable: bool = False
    ) -> None:
        super().__init__()
        scales = [log_of(spike_scale, "spike_scale", dim), log_of(slab_scale, "slab_scale", dim)]
        if not spike_scale < slab_scale:
            raise ValueError(f"Expected spike_scale < slab_scale; got {spike_scale!r} and {slab_scale!r}.")
        keep(self, "logit", logit_of(p, "p", dim), learnable)
        keep(self, "log_scale", torch.stack(scales, -1), learnable)

    def forward(self) -> dist.TorchDistribution:
        """Return p(z), batch shape (), event shape (D,)."""
        logits = torch.stack([torch.zeros_like(self.logit), self.logit], -1)
        parts = dist.Normal(torch.zeros_like(self.log_scale), self.log_scale.exp())
        return dist.MixtureSameFamily(dist.Categorical(logits=logits), parts).to_event(1)


SWITCH = 2.0
"""Where the series of E1 gives way to its continued fraction: both are exact to double precision there."""
SERIES_TERMS, FRACTION_DEPTH = 28, 60
EULER = 0.57721566490153286


class Horseshoe(Prior):
    """Independent horseshoe entries, z_i ~ N(0, (lambda_i s)^2) with lambda_i half-Cauchy, summed out.

        p(z_i) = (2 pi^3)^(-1/2) exp(u) E1(u) / s,    u = z_i^2 / (2 s^2),    E1(u) = int_u^inf exp(-t) / t dt

    The density has a pole at 0 and Cauchy tails: entries are either shrunk to 0 or left alone. The scales lambda
    are summed out, so that the guide needs no site for them, and the bound loses nothing to them.

    Args:
        dim: latent dimension D.
        scale: s, the global scale.
        learnable: learn a scale for each dimension, from this value on.

    Raises:
        ValueError: if ``scale`` is not positive.

    Source: Carvalho, Polson and Scott (2010), The horseshoe estimator for sparse signals.
    """

    log_scale: Tensor

    def __init__(self, dim: int, scale: float = 1.0, learnable: bool = False) -> None:
        super().__init__()
        keep(self, "log_scale", log_of(scale, "scale", dim), learnable)

    def forward(self) -> dist.TorchDistribution:
        """Return p(z), batch shape (), event shape (D,)."""
        return HorseshoeEntry(self.log_scale.exp()).to_event(1)


class HorseshoeEntry(dist.TorchDistribution):
    """The horseshoe law of one number.

    Args:
        scale: s, shape (...).
    """

    arg_constraints = {"scale": constraints.positive}  # noqa: RUF012
    support = constraints.real
    has_rsample = True

    def __init__(self, scale: Tensor, validate_args: bool | None = None) -> None:
        self.scale = scale
        super().__init__(scale.shape, validate_args=validate_args)

    def expand(self, batch_shape: torch.Size, _instance: Any = None) -> HorseshoeEntry:
        """Return the same law with a larger batch shape."""
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
