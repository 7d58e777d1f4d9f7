"""Priors of discrete codes, whose guides have no pathwise gradient, and their continuous relaxations."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vae.core.checks import check_several
from pyro_vae.core.simplex import Concrete
from pyro_vae.models.priors.base import Prior, keep, log_of, logit_of


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


class RelaxedBernoulli(Prior):
    """Independent binary concrete entries on (0, 1), z_i = sigmoid((logit p + L) / t) with L logistic.

    Their density is their own: a bound with it is no bound of the discrete model's log p(x).

    Args:
        dim: latent dimension D.
        temperature: t; near 0 the entries are nearly binary.
        p: probability that an entry is above 1/2.
        learnable: learn the probability of each dimension, from this value on.

    Raises:
        ValueError: unless ``temperature`` is positive and 0 < p < 1.

    Source: Maddison, Mnih and Teh (2017), The Concrete Distribution, appendix B.
    """

    logits: Tensor
    log_temperature: Tensor

    def __init__(self, dim: int, temperature: float = 0.5, p: float = 0.5, learnable: bool = False) -> None:
        super().__init__()
        keep(self, "logits", logit_of(p, "p", dim), learnable)
        keep(self, "log_temperature", log_of(temperature, "temperature", 1)[0], False)

    def forward(self) -> dist.TorchDistribution:
        """Return p(z), batch shape (), event shape (D,)."""
        return dist.RelaxedBernoulli(self.log_temperature.exp(), logits=self.logits).to_event(1)


class RelaxedCategorical(Prior):
    """Concrete law on the simplex, z = softmax((log pi + G) / t) with G_i Gumbel, at first pi_i = 1/D.

    Its density is its own, by Lebesgue measure on D - 1 entries: a bound with it is no bound of the discrete
    model's log p(x).

    Args:
        dim: latent dimension D, the number of classes.
        temperature: t; near 0 the vector has nearly a single one.
        learnable: learn pi.

    Raises:
        ValueError: for fewer than two classes, or unless ``temperature`` is positive.

    Source: Maddison, Mnih and Teh (2017), The Concrete Distribution, equation 10; Jang, Gu and Poole (2017).
    """

    logits: Tensor
    log_temperature: Tensor

    def __init__(self, dim: int, temperature: float = 0.5, learnable: bool = False) -> None:
        super().__init__()
        check_several(dim, "classes to choose from")
        keep(self, "logits", torch.zeros(dim), learnable)
        keep(self, "log_temperature", log_of(temperature, "temperature", 1)[0], False)

    def forward(self) -> dist.TorchDistribution:
        """Return p(z), batch shape (), event shape (D,), support the simplex."""
        return Concrete(self.log_temperature.exp(), logits=self.logits)
