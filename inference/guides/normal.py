"""Normal families."""

from __future__ import annotations

import pyro.distributions as dist
from torch import Tensor

from pyro_vae._checks import check_positive_int
from pyro_vae.inference.guides.base import GuideFamily


class DiagonalNormal(GuideFamily):
    """Diagonal normal family, q(z|x) = N(z; mu, diag(sigma^2)), h = (mu, log sigma).

    Args:
        dim: latent dimension D.

    Source: Kingma and Welling (2014), section 3, equation 9.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        check_positive_int(dim, "dim")
        self.num_features = 2 * dim

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        """Return q(z|x) for h of shape (..., 2 D)."""
        loc, log_scale = h.chunk(2, -1)
        return dist.Normal(loc, log_scale.exp()).to_event(1)
