"""What a likelihood is: a module whose ``forward(h)`` turns the decoder's output into p(x|z)."""

from __future__ import annotations

from abc import abstractmethod

import pyro.distributions as dist
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_vae._parts import Shape, as_shape


class Likelihood(nn.Module):
    """Base class of the likelihoods shipped here; any module with the same members will do.

    Args:
        event_shape: shape of one datum.
    """

    support: constraints.Constraint
    """What it accepts as data, entry by entry."""
    hint = ""
    """What a user can do about data outside the support."""

    def __init__(self, event_shape: Shape) -> None:
        super().__init__()
        self.event_shape = as_shape(event_shape)
        if not self.event_shape:
            raise ValueError("Expected event_shape with at least one dimension; got (). Use (1,) for one number.")

    @property
    def num_features(self) -> int:
        """Width of the decoder's output: one feature for each entry of x, unless overridden."""
        return self.event_shape.numel()

    @abstractmethod
    def forward(self, h: Tensor) -> dist.TorchDistribution:
        """Return p(x|z) for h of shape (..., num_features): batch shape (...), event shape as given."""

    def _to_event(self, h: Tensor) -> Tensor:
        return h.unflatten(-1, self.event_shape)
