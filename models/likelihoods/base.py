"""What a likelihood is, a module whose ``forward(h)`` returns p(x|z), and its scales and dispersions."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator
from typing import Literal

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_vae.core.modules import Shape, as_shape

PositiveValue = float | Literal["shared", "dimension", "datum"]
"""How a positive parameter comes about; ``PositiveParameter`` says what each value means."""


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

    def start_at_column(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the affine map h -> loc + scale h of the features that puts h = 0 at the location of a column.

        A learnt scale is set to the standard deviation of the data, where the likelihood has such a parameter.

        Args:
            x: data of one column, without missing entries, shape (N,); the event shape is (1,).

        Returns:
            loc and scale, each of shape (num_features,): 0 and 1 where no location is known.
        """
        return self._feature_map()

    def _feature_map(self, loc: Tensor | float = 0.0, scale: Tensor | float = 1.0) -> tuple[Tensor, Tensor]:
        """Return loc and scale of the first feature, with 0 and 1 for the others, each of shape (num_features,)."""
        locs, scales = torch.zeros(self.num_features), torch.ones(self.num_features)
        locs[0], scales[0] = loc, scale
        return locs, scales

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


class PositiveParameter(nn.Module):
    """A positive parameter, the exponential of what is learnt: exp(log_value), or initial exp(h) by datum.

    Args:
        value: a number fixes the parameter; "shared" learns one for all entries of x, "dimension" one for each entry,
            and with "datum" the decoder gives one for each entry and each z.
        event_shape: shape of one datum.
        name: what the message calls it.
        initial: its value before training, with "datum" that at h = 0.

    Raises:
        ValueError: if ``value`` is neither a positive number nor one of the three names.
    """

    log_value: Tensor

    def __init__(self, value: PositiveValue, event_shape: torch.Size, name: str, initial: float = 1.0) -> None:
        super().__init__()
        self.fixed: float | None = None
        self.per_datum = value == "datum"
        self.log_initial = math.log(initial)
        if isinstance(value, int | float) and 0 < value < math.inf:
            self.fixed = float(value)
        elif value in ("shared", "dimension"):
            shape = event_shape if value == "dimension" else torch.Size()
            self.log_value = nn.Parameter(torch.full(shape, self.log_initial))
        elif not self.per_datum:
            raise ValueError(f'Expected {name} > 0, "shared", "dimension" or "datum"; got {value!r}.')

    def forward(self, features: Iterator[Tensor], like: Tensor) -> Tensor:
        """Return the parameter, of a shape that broadcasts with (..., *event).

        Args:
            features: the decoder's features, each of shape (..., *event); the next one is taken by datum.
            like: tensor of the dtype and device to have.
        """
        if self.fixed is not None:
            return like.new_full((), self.fixed)
        return (next(features) + self.log_initial if self.per_datum else self.log_value).exp()

    def extra_repr(self) -> str:
        """Say where the parameter comes from."""
        if self.fixed is not None:
            return f"fixed at {self.fixed:g}"
        return "by datum" if self.per_datum else f"learnt, shape {tuple(self.log_value.shape)}"


def log_mean_of(x: Tensor) -> Tensor:
    """Return the logarithm of the mean of nonnegative data, shape (), of one that is at least 0.001."""
    return x.mean().clamp(min=1e-3).log()


def logit_mean_of(x: Tensor) -> Tensor:
    """Return the logit of the mean of data in [0, 1], shape (), of one in [0.001, 0.999]."""
    return x.mean().clamp(1e-3, 1 - 1e-3).logit()
