"""Normal priors."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vae._checks import check_positive_int
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
