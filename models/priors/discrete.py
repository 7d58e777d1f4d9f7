"""Priors of discrete codes; their guides have no pathwise gradient."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vae.core.checks import check_several
from pyro_vae.models.priors._settings import keep, logit_of
from pyro_vae.models.priors.base import Prior


class Bernoulli(Prior):
    """Independent binary entries, p(z) = prod_i p^z_i (1 - p)^(1 - z_i).

    Args:
        dim: latent dimension D.
        p: probability of a one.
        learnable: learn the probability of each dimension, from this value on.

    Raises:
        ValueError: unless 0 < p < 1.
    """

    logits: Tensor

    def __init__(self, dim: int, p: float = 0.5, learnable: bool = False) -> None:
        super().__init__()
        keep(self, "logits", logit_of(p, "p", dim), learnable)

    def forward(self) -> dist.TorchDistribution:
        """Return p(z), batch shape (), event shape (D,)."""
        return dist.Bernoulli(logits=self.logits).to_event(1)


class Categorical(Prior):
    """One of D classes, as a vector with a single one: p(z) = prod_i pi_i^z_i, at first pi_i = 1/D.

    Args:
        dim: latent dimension D, the number of classes.
        learnable: learn pi.

    Raises:
        ValueError: for fewer than two classes.
    """

    logits: Tensor

    def __init__(self, dim: int, learnable: bool = False) -> None:
        super().__init__()
        check_several(dim, "classes to choose from")
        keep(self, "logits", torch.zeros(dim), learnable)

    def forward(self) -> dist.TorchDistribution:
        """Return p(z), batch shape (), event shape (D,)."""
        return dist.OneHotCategorical(logits=self.logits)
