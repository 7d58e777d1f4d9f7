"""What a likelihood is: a module whose ``forward(h)`` turns the decoder's output into p(x|z)."""

from __future__ import annotations

from abc import abstractmethod

import pyro.distributions as dist
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_vae.core.modules import Shape, as_shape
from pyro_vae.models.likelihoods.parameters import PositiveParameter


class Likelihood(nn.Module):
    """Base class of the likelihoods shipped here; any module with the same members will do.

    Args:
        event_shape: shape of one datum.
    """

    support: constraints.Constraint
    """What it accepts as data, entry by entry."""
    hint = ""
    """What a user can do about data outside the support."""
    features_per_entry = 1
    """Features of the decoder that each entry of x needs, besides those of the positive parameters."""

    def __init__(self, event_shape: Shape) -> None:
        super().__init__()
        self.event_shape = as_shape(event_shape)
        if not self.event_shape:
            raise ValueError("Expected event_shape with at least one dimension; got (). Use (1,) for one number.")

    @property
    def num_features(self) -> int:
        """Width of the decoder's output: a feature for each entry of x, and one for each parameter by datum."""
        by_datum = sum(parameter.per_datum for parameter in self._positive_parameters())
        return self.event_shape.numel() * (self.features_per_entry + by_datum)

    @abstractmethod
    def forward(self, h: Tensor) -> dist.TorchDistribution:
        """Return p(x|z) for h of shape (..., num_features): batch shape (...), event shape as given."""

    def _to_event(self, h: Tensor) -> Tensor:
        return h.unflatten(-1, self.event_shape)

    def _split(self, h: Tensor) -> tuple[Tensor, ...]:
        """Return the features of the entries, then each positive parameter in the order of its declaration."""
        blocks = h.unflatten(-1, (-1, *self.event_shape)).unbind(-1 - len(self.event_shape))
        features, rest = blocks[: self.features_per_entry], iter(blocks[self.features_per_entry :])
        return *features, *(parameter(rest, features[0]) for parameter in self._positive_parameters())

    def _independent(self, entries: dist.TorchDistribution) -> dist.TorchDistribution:
        return entries.to_event(len(self.event_shape))

    def _positive_parameters(self) -> list[PositiveParameter]:
        return [child for child in self.children() if isinstance(child, PositiveParameter)]
