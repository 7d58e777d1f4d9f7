"""Positive parameters of a likelihood, such as scales: fixed, learnt, or given by the decoder."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn

PositiveValue = float | Literal["shared", "dimension", "datum"]
"""A number fixes a parameter; "shared" learns one for all entries of x, "dimension" one for each entry, and with
"datum" the decoder gives one for each entry and each z."""


class PositiveParameter(nn.Module):
    """A positive parameter, the exponential of what is learnt: exp(log_value), or initial exp(h) by datum.

    Args:
        value: what ``PositiveValue`` says.
        event_shape: shape of one datum.
        name: what the message calls it.
        initial: its value before training, with "datum" that at h = 0.

    Raises:
        ValueError: if ``value`` is no positive number and none of the three names.
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
