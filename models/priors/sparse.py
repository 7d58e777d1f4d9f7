"""Priors of sparse codes, most entries at 0 or near it."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vae.models.distributions import horseshoe
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
        return horseshoe.Horseshoe(self.log_scale.exp()).to_event(1)
