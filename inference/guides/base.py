"""What a guide family is, a module whose ``forward(h)`` turns the encoder's output into q(z|x)."""

from __future__ import annotations

from abc import abstractmethod

import pyro.distributions as dist
from torch import Tensor, nn


class GuideFamily(nn.Module):
    """Base class of the families shipped here; any module with ``num_features`` and ``forward(h)`` will do."""

    num_features: int
    """Width of the encoder's output."""

    @abstractmethod
    def forward(self, h: Tensor) -> dist.TorchDistribution:
        """Return q(z|x) for h of shape (..., num_features): batch shape (...), event shape (D,)."""
