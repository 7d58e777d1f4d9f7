"""The point mass: an encoder's output taken as the latent itself."""

from __future__ import annotations

import pyro.distributions as dist
from torch import Tensor

from pyro_vae.core.checks import check_positive_int
from pyro_vae.inference.guides.base import GuideFamily


class PointMass(GuideFamily):
    """Point mass at the encoder's output, q(z|x) = delta(z - h): the guide of a plain autoencoder.

    It has no density, so that log q(z|x) counts as 0 and the bound is log p(x, z) at z = h: with a flat prior the
    reconstruction alone, with a proper one the joint density that a MAP estimate of z maximises. Neither is
    a bound on log p(x), and ``evidence`` refuses it.

    Args:
        dim: latent dimension D.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        check_positive_int(dim, "dim")
        self.num_features = dim

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        """Return the point mass at h, shape (..., D)."""
        return dist.Delta(h, event_dim=1)
