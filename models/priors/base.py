"""What a prior is, a module whose ``forward()`` returns p(z), and settings that stay on their side of a bound."""

from __future__ import annotations

import math
from abc import abstractmethod

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae.core.checks import check_positive_int


class Prior(nn.Module):
    """Base class of the priors shipped here; any module whose ``forward()`` returns a distribution will do."""

    @abstractmethod
    def forward(self) -> dist.TorchDistribution:
        """Return p(z), batch shape (), event shape (D,)."""


def log_of(value: float, name: str, dim: int) -> Tensor:
    """Return the logarithm of a positive setting, once for each dimension, shape (D,).

    Raises:
        ValueError: unless the value is a positive finite number and D a positive integer.
    """
    check_positive_int(dim, "dim")
    check_positive(value, name)
    return torch.full((dim,), math.log(value))


def logit_of(probability: float, name: str, dim: int) -> Tensor:
    """Return the logit of a probability, once for each dimension, shape (D,).

    Raises:
        ValueError: unless 0 < probability < 1 and D is a positive integer.
    """
    check_positive_int(dim, "dim")
    if not 0 < probability < 1:
        raise ValueError(f"Expected 0 < {name} < 1; got {probability!r}.")
    return torch.full((dim,), math.log(probability) - math.log1p(-probability))


def check_positive(value: float, name: str) -> None:
    """Refuse anything but a positive finite number, with a ``ValueError``."""
    if not 0 < value < math.inf:
        raise ValueError(f"Expected {name} to be a number > 0; got {value!r}.")


def keep(module: nn.Module, name: str, value: Tensor, learnable: bool) -> None:
    """Give a module a tensor, as a parameter if it is learnt and as a buffer if it is fixed."""
    if learnable:
        module.register_parameter(name, nn.Parameter(value))
    else:
        module.register_buffer(name, value)
