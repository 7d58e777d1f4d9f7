"""A prior that is none: what turns a variational autoencoder into an autoencoder."""

from __future__ import annotations

from typing import NoReturn

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_vae.core.checks import check_positive_int
from pyro_vae.models.priors.base import Prior


class Flat(Prior):
    """Improper flat prior on R^D, log p(z) = 0 everywhere.

    It has no draws, and does not integrate to one: what is then called log p(x) is the logarithm of
    int p(x|z) dz, no log-probability of x, and not to be compared with that of another model.

    Args:
        dim: latent dimension D.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        check_positive_int(dim, "dim")
        self.dim = dim

    def forward(self) -> dist.TorchDistribution:
        """Return the improper law, batch shape (), event shape (D,)."""
        return _Improper(constraints.real_vector, torch.Size(), torch.Size((self.dim,)))


class _Improper(dist.ImproperUniform):
    """Pyro's improper law, with a log density of the value's dtype and device."""

    def log_prob(self, value: Tensor) -> Tensor:
        """Return 0 for every value, shape (...), for z of shape (..., D)."""
        batch_shape = torch.broadcast_shapes(value.shape[: value.ndim - self.event_dim], self.batch_shape)
        return value.new_zeros(()).expand(batch_shape)  # made where the value is: a copy would wait for the device

    def sample(self, sample_shape: torch.Size = torch.Size()) -> NoReturn:  # noqa: B008
        """Refuse to draw."""
        raise ValueError(
            "A flat prior is improper: it has no draws, and log p(x) under it is no probability. "
            "Choose a proper prior, such as StandardNormal, to sample or to estimate log p(x)."
        )
