"""Families on the simplex."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Transform, constraints
from torch.nn.functional import pad

from pyro_vae.inference.guides.base import GuideFamily, check_several


class LogisticNormal(GuideFamily):
    """Logistic-normal family on the simplex of D shares, z = softmax(u, 0), u ~ N(mu, diag(sigma^2)) in R^(D-1).

    h = (mu, log sigma). The density is that by the first D - 1 shares, as the Dirichlet's. ``torch``'s own
    logistic normal breaks a stick instead, whose inverse subtracts shares from one: in float32 and ten dimensions
    its log_prob is off by thousands of nats.

    Args:
        dim: number of shares D >= 2; h has 2 (D - 1) entries.

    Raises:
        ValueError: if there is one share only.

    Source: Aitchison and Shen (1980), Logistic-Normal Distributions: Some Properties and Uses.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        check_several(dim, "shares")
        self.num_features = 2 * (dim - 1)

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        """Return q(z|x) for h of shape (..., 2 (D - 1))."""
        loc, log_scale = h.chunk(2, -1)
        normal = dist.Normal(loc, log_scale.exp()).to_event(1)
        return dist.TransformedDistribution(normal, [AdditiveLogistic()])


class AdditiveLogistic(Transform):
    """The map u -> softmax(u_1, ..., u_(D-1), 0) from R^(D-1) to the simplex, |det| = prod_i z_i over all D shares."""

    domain = constraints.real_vector
    codomain = constraints.simplex
    bijective = True

    def __eq__(self, other: object) -> bool:
        """Return whether the other is the same map."""
        return isinstance(other, AdditiveLogistic)

    def __hash__(self) -> int:
        """Return one hash for all, as they are one map."""
        return hash(AdditiveLogistic)

    def _call(self, x: Tensor) -> Tensor:
        return pad(x, (0, 1)).softmax(-1).clamp(min=smallest_share(x.dtype))

    def _inverse(self, y: Tensor) -> Tensor:
        return y[..., :-1].log() - y[..., -1:].log()

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Return log |det dy/dx|, shape (...)."""
        return y.log().sum(-1)

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        """Return (..., D) for (..., D - 1)."""
        return torch.Size((*shape[:-1], shape[-1] + 1))

    def inverse_shape(self, shape: torch.Size) -> torch.Size:
        """Return (..., D - 1) for (..., D)."""
        return torch.Size((*shape[:-1], shape[-1] - 1))


def smallest_share(dtype: torch.dtype) -> float:
    """Return what a share that would vanish is set to: a number whose reciprocal a gradient can still multiply."""
    return torch.finfo(dtype).tiny ** 0.75
