"""Likelihoods of real numbers."""

from __future__ import annotations

from typing import Literal

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_vae._parts import Shape
from pyro_vae.models.likelihoods.base import Likelihood


class Normal(Likelihood):
    """Independent normal entries, p(x|z) = prod_i N(x_i; mu_i(z), sigma_i^2).

    Args:
        event_shape: shape of one datum.
        scale: the standard deviation sigma: a number fixes it; "shared" learns one, "dimension" one for
            each entry of x, and "datum" lets the decoder give one for each entry and each z.

    Raises:
        ValueError: if ``scale`` is no positive number and none of the three names.
    """

    support = constraints.real

    def __init__(self, event_shape: Shape, scale: float | Literal["shared", "dimension", "datum"] = "shared") -> None:
        super().__init__(event_shape)
        self.per_datum = scale == "datum"
        if scale in ("shared", "dimension"):
            shape = self.event_shape if scale == "dimension" else torch.Size()
            self.log_scale: Tensor = nn.Parameter(torch.zeros(shape))
        elif isinstance(scale, int | float) and scale > 0:
            self.register_buffer("log_scale", torch.tensor(float(scale)).log())
        elif not self.per_datum:
            raise ValueError(f'Expected scale > 0, "shared", "dimension" or "datum"; got {scale!r}.')

    @property
    def num_features(self) -> int:
        """Width of the decoder's output: a mean for each entry, and with scale "datum" a log scale too."""
        return self.event_shape.numel() * (2 if self.per_datum else 1)

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        """Return p(x|z) for h = mu, or h = (mu, log sigma), of shape (..., num_features)."""
        if self.per_datum:
            loc, log_scale = map(self._to_event, h.chunk(2, -1))
        else:
            loc, log_scale = self._to_event(h), self.log_scale
        return dist.Normal(loc, log_scale.exp()).to_event(len(self.event_shape))
