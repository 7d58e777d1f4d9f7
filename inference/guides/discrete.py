"""Families of discrete guides, and their continuous relaxations."""

from __future__ import annotations

import math

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae.core.checks import check_positive_int, check_several
from pyro_vae.core.simplex import Concrete
from pyro_vae.inference.guides.base import GuideFamily
from pyro_vae.inference.programs.enumeration import Factorised


class Bernoulli(GuideFamily):
    """Binary codes, q(z|x) = prod_i Bernoulli(z_i; sigmoid(h_i)), z in {0, 1}^D.

    A draw has no derivative: train with ``IWAE(K, gradient="vimco")``, ``ELBO(K, gradient="score")``, or, for few
    bits, ``ELBO(gradient="enumerate")``, which sums over all 2^D codes. The prior is discrete too.

    Args:
        dim: number of bits D.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        check_positive_int(dim, "dim")
        self.num_features = dim

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        """Return q(z|x) for h of shape (..., D)."""
        return Factorised(dist.Bernoulli(logits=h), 1)


class Categorical(GuideFamily):
    """One of D categories, q(z|x) = Categorical(z; softmax(h)), z a one-hot vector of length D.

    One-hot, so that a decoder takes it as it is and an event has shape (D,), as everywhere. A draw has no
    derivative: train with ``ELBO(gradient="enumerate")``, which sums over the D categories, or with "vimco" or
    "score". The prior is one-hot too.

    Args:
        dim: number of categories D.

    Raises:
        ValueError: for fewer than two categories.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        check_several(dim, "categories to choose from")
        self.num_features = dim

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        """Return q(z|x) for logits h of shape (..., D)."""
        return dist.OneHotCategorical(logits=h)


class RelaxedBernoulli(GuideFamily):
    """Binary concrete family on (0, 1)^D, z_i = sigmoid((h_i + l_i) / tau), l_i ~ Logistic(0, 1).

    As tau falls to 0, z_i falls on 0 or 1, on 1 with probability sigmoid(h_i).

    Args:
        dim: number of relaxed bits D.
        temperature: tau, at the start if it is learnt.
        learnable: learn tau, one for all data.

    Raises:
        ValueError: if the temperature is not positive.

    Source: Maddison, Mnih and Teh (2017), The Concrete Distribution; Jang, Gu and Poole (2017).
    """

    def __init__(self, dim: int, temperature: float = 0.5, learnable: bool = False) -> None:
        super().__init__()
        check_positive_int(dim, "dim")
        self.num_features = dim
        self.temperature = Temperature(temperature, learnable)

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        """Return q(z|x) for logits h of shape (..., D)."""
        return dist.RelaxedBernoulli(self.temperature(), logits=h).to_event(1)


class RelaxedCategorical(GuideFamily):
    """Concrete family on the simplex of D vertices, z = softmax((h + g) / tau), g_i ~ Gumbel(0, 1).

    As tau falls to 0, z falls on a vertex, on the i-th with probability softmax(h)_i.

    Args:
        dim: number of categories D.
        temperature: tau, at the start if it is learnt.
        learnable: learn tau, one for all data.

    Raises:
        ValueError: if there is one category only, or the temperature is not positive.

    Source: Maddison, Mnih and Teh (2017), The Concrete Distribution, definition 1; Jang, Gu and Poole (2017),
    Categorical Reparameterization with Gumbel-Softmax, section 2.
    """

    def __init__(self, dim: int, temperature: float = 0.5, learnable: bool = False) -> None:
        super().__init__()
        check_several(dim, "categories to choose from")
        self.num_features = dim
        self.temperature = Temperature(temperature, learnable)

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        """Return q(z|x) for logits h of shape (..., D)."""
        return Concrete(self.temperature(), logits=h)


class Temperature(nn.Module):
    """The temperature of a relaxation, fixed or learnt.

    Args:
        value: tau > 0.
        learnable: learn its logarithm.
    """

    log_value: Tensor

    def __init__(self, value: float, learnable: bool) -> None:
        super().__init__()
        if not value > 0:
            raise ValueError(f"Expected temperature > 0; got {value!r}.")
        log_value = torch.tensor(math.log(value))
        if learnable:
            self.log_value = nn.Parameter(log_value)
        else:
            self.register_buffer("log_value", log_value)

    def forward(self) -> Tensor:
        """Return tau, shape ()."""
        return self.log_value.exp()
