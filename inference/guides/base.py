"""What a guide family is, a module whose ``forward(h)`` turns the encoder's output into q(z|x), and what x it takes."""

from __future__ import annotations

from abc import abstractmethod

import pyro.distributions as dist
import torch
from torch import Tensor, nn


class GuideFamily(nn.Module):
    """Base class of the families shipped here; any module with ``num_features`` and ``forward(h)`` will do."""

    num_features: int
    """Width of the encoder's output."""

    @abstractmethod
    def forward(self, h: Tensor) -> dist.TorchDistribution:
        """Return q(z|x) for h of shape (..., num_features): batch shape (...), event shape (D,)."""


def check_event_shape(x: Tensor, in_shape: torch.Size) -> None:
    """Refuse data x of another event shape than a guide was made for, with a ``ValueError``."""
    if x.shape[x.ndim - len(in_shape) :] != in_shape:
        raise ValueError(f"Expected x of shape (N, {', '.join(map(str, in_shape))}); got {tuple(x.shape)}.")
