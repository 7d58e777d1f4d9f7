"""What a network factory is, and the checks that all of them make."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import nn

from pyro_vae.core.checks import check_positive_int

Factory = Callable[[torch.Size, int], nn.Module]
"""Called with the event shape of the input and the width of the output."""


class NetworkFactory(ABC):
    """Base class of the network factories shipped here; any function or class with the same call will do."""

    @abstractmethod
    def __call__(self, in_shape: torch.Size, out_features: int) -> nn.Module:
        """Return a network that maps (..., *in_shape) to (..., out_features)."""


def check_widths(widths: Sequence[int], name: str) -> None:
    """Refuse widths that are not positive integers, with a ``ValueError``."""
    for width in widths:
        check_positive_int(width, name)
