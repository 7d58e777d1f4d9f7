"""Normal priors."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae.core.checks import check_positive_int
from pyro_vae.models.priors.base import Prior


class StandardNormal(Prior):
    """Standard normal prior, p(z) = N(z; 0, I).

    Args:
        dim: latent dimension D.

    Source: Kingma and Welling (2014), Auto-Encoding Variational Bayes, section 3.
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        check_positive_int(dim, "dim")
        self.register_buffer("loc", torch.zeros(dim), persistent=False)
        self.register_buffer("scale", torch.ones(dim), persistent=False)

    def forward(self) -> dist.TorchDistribution:
        """Return N(0, I), batch shape (), event shape (D,)."""
        return dist.Normal(self.loc, self.scale).to_event(1)


class DiagonalNormal(Prior):
    """Normal prior with learnt mean and scales, p(z) = N(z; m, diag(s^2)), at first N(z; 0, I).

    Args:
        dim: latent dimension D.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        check_positive_int(dim, "dim")
        self.loc = nn.Parameter(torch.zeros(dim))
        self.log_scale = nn.Parameter(torch.zeros(dim))

    def forward(self) -> dist.TorchDistribution:
        """Return N(m, diag(s^2)), batch shape (), event shape (D,)."""
        return dist.Normal(self.loc, self.log_scale.exp()).to_event(1)


class FullNormal(Prior):
    """Normal prior with learnt mean and covariance, p(z) = N(z; m, L L^T), at first N(z; 0, I).

    L is lower triangular, with a positive diagonal.

    Args:
        dim: latent dimension D.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        check_positive_int(dim, "dim")
        self.loc = nn.Parameter(torch.zeros(dim))
        self.log_diagonal = nn.Parameter(torch.zeros(dim))
        self.below = nn.Parameter(torch.zeros(dim, dim))

    def forward(self) -> dist.TorchDistribution:
        """Return N(m, L L^T), batch shape (), event shape (D,)."""
        scale_tril = self.below.tril(-1) + self.log_diagonal.exp().diag()
        return dist.MultivariateNormal(self.loc, scale_tril=scale_tril)
