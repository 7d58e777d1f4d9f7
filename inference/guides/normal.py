"""Normal families."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints, transform_to

from pyro_vae.core.checks import check_positive_int
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


class FullRankNormal(GuideFamily):
    """Full-covariance normal family, q(z|x) = N(z; mu, L L^T), L lower triangular with a positive diagonal.

    h = (mu, the lower triangle of L row by row, with the logarithm of its diagonal). It holds the exact posterior
    of a linear-Gaussian model, whose coordinates are correlated given x.

    Args:
        dim: latent dimension D; h has D + D (D + 1) / 2 entries.

    Source: Rezende, Mohamed and Wierstra (2014), section 4, on structured posterior covariances.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        check_positive_int(dim, "dim")
        self.dim, self.num_features = dim, dim + dim * (dim + 1) // 2

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        """Return q(z|x) for h of shape (..., D + D (D + 1) / 2)."""
        loc, triangle = h.split([self.dim, self.num_features - self.dim], -1)
        row, column = torch.tril_indices(self.dim, self.dim, device=h.device)  # a mask would wait for the device
        matrix = h.new_zeros(*h.shape[:-1], self.dim, self.dim)
        matrix[..., row, column] = triangle
        scale_tril = transform_to(constraints.lower_cholesky)(matrix)
        return dist.MultivariateNormal(loc, scale_tril=scale_tril)


class LowRankNormal(GuideFamily):
    """Normal family of low rank plus diagonal, q(z|x) = N(z; mu, W W^T + diag(sigma^2)), h = (mu, log sigma, W).

    Args:
        dim: latent dimension D; h has D (R + 2) entries.
        rank: number R of columns of W, the directions along which coordinates vary together.

    Raises:
        ValueError: if the rank is greater than D.

    Source: Ong, Nott and Smith (2018), Gaussian Variational Approximation with a Factor Covariance Structure;
    with R = 1: Rezende, Mohamed and Wierstra (2014), section 4.
    """

    def __init__(self, dim: int, rank: int = 2) -> None:
        super().__init__()
        check_positive_int(dim, "dim")
        check_positive_int(rank, "rank")
        if rank > dim:
            raise ValueError(f"Expected rank <= dim={dim}; got {rank}. FullRankNormal has every covariance.")
        self.dim, self.rank, self.num_features = dim, rank, dim * (rank + 2)

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        """Return q(z|x) for h of shape (..., D (R + 2))."""
        loc, log_scale, factor = h.split([self.dim, self.dim, self.dim * self.rank], -1)
        cov_factor = factor.unflatten(-1, (self.dim, self.rank))
        return dist.LowRankMultivariateNormal(loc, cov_factor, cov_diag=(2 * log_scale).exp())
