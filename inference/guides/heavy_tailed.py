"""Families with tails heavier than the normal's, so that importance weights stay bounded far from the mode."""

from __future__ import annotations

import pyro.distributions as dist
from torch import Tensor

from pyro_vae.core.checks import check_positive_int
from pyro_vae.inference.guides.base import GuideFamily


class Laplace(GuideFamily):
    """Laplace family, q(z|x) = prod_i exp(-|z_i - mu_i| / b_i) / (2 b_i), h = (mu, log b).

    The scale b is not the standard deviation, which is sqrt(2) b.

    Args:
        dim: latent dimension D.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        check_positive_int(dim, "dim")
        self.num_features = 2 * dim

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        """Return q(z|x) for h of shape (..., 2 D)."""
        loc, log_scale = h.chunk(2, -1)
        return dist.Laplace(loc, log_scale.exp()).to_event(1)


class StudentT(GuideFamily):
    """Student-t family, q(z|x) = prod_i t_nu(z_i; mu_i, sigma_i), h = (mu, log sigma).

    Its polynomial tails dominate those of a normal posterior, so that the weights p(x, z) / q(z|x) are bounded even
    where the scale is too small.

    Args:
        dim: latent dimension D.
        df: degrees of freedom nu; the tails fall as |z|^-(nu + 1).

    Raises:
        ValueError: if ``df`` is not positive.
    """

    def __init__(self, dim: int, df: float = 5.0) -> None:
        super().__init__()
        check_positive_int(dim, "dim")
        if not df > 0:
            raise ValueError(f"Expected df > 0; got {df!r}.")
        self.num_features, self.df = 2 * dim, df

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        """Return q(z|x) for h of shape (..., 2 D)."""
        loc, log_scale = h.chunk(2, -1)
        return dist.StudentT(self.df, loc, log_scale.exp()).to_event(1)
