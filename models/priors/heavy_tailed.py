"""Priors with heavier tails than the normal's."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vae.models.priors._settings import keep, log_of
from pyro_vae.models.priors.base import Prior


class StudentT(Prior):
    """Independent Student-t entries, p(z) = prod_i t_nu(z_i / s) / s; nu = 1 is the Cauchy law.

    Args:
        dim: latent dimension D.
        df: degrees of freedom nu.
        scale: s; the standard deviation is s sqrt(nu / (nu - 2)) for nu > 2, and infinite below.
        learnable: learn nu and s of each dimension, from these values on.

    Raises:
        ValueError: if ``df`` or ``scale`` is not positive.
    """

    log_df: Tensor
    log_scale: Tensor

    def __init__(self, dim: int, df: float = 4.0, scale: float = 1.0, learnable: bool = False) -> None:
        super().__init__()
        keep(self, "log_df", log_of(df, "df", dim), learnable)
        keep(self, "log_scale", log_of(scale, "scale", dim), learnable)

    def forward(self) -> dist.TorchDistribution:
        """Return p(z), batch shape (), event shape (D,)."""
        return dist.StudentT(self.log_df.exp(), torch.zeros_like(self.log_scale), self.log_scale.exp()).to_event(1)
