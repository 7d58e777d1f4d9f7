"""Families on the simplex."""

from __future__ import annotations

import pyro.distributions as dist
from torch import Tensor

from pyro_vae.core.checks import check_several
from pyro_vae.core.simplex import AdditiveLogistic
from pyro_vae.inference.guides.base import GuideFamily


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
