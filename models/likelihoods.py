"""Likelihoods p(x|z): modules whose ``forward(h)`` turns the decoder's output into a distribution over x.

Each names ``num_features``, the width of h it needs, and ``support``, the values it accepts as data.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Literal

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_vae._checks import check_positive_int
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


class Bernoulli(Likelihood):
    """Independent Bernoulli pixels, p(x|z) = prod_i pi_i^x_i (1 - pi_i)^(1 - x_i), logit pi = h.

    Args:
        event_shape: shape of one datum.

    Source: Kingma and Welling (2014), appendix C.1.
    """

    support = constraints.boolean
    hint = (
        'Grey levels have no Bernoulli likelihood: binarise them, load_data(..., binarize="static"), '
        "or choose a likelihood for continuous data."
    )

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        """Return p(x|z) for logits h of shape (..., num_features)."""
        return dist.Bernoulli(logits=self._to_event(h)).to_event(len(self.event_shape))


class Binomial(Likelihood):
    """Independent binomial counts out of n, p(x|z) = prod_i C(n, x_i) pi_i^x_i (1 - pi_i)^(n - x_i).

    Args:
        event_shape: shape of one datum.
        total_count: n, the largest possible count.
    """

    def __init__(self, event_shape: Shape, total_count: int) -> None:
        super().__init__(event_shape)
        check_positive_int(total_count, "total_count")
        self.total_count = total_count
        self.support = constraints.integer_interval(0, total_count)

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        """Return p(x|z) for logits h of shape (..., num_features)."""
        return dist.Binomial(self.total_count, logits=self._to_event(h)).to_event(len(self.event_shape))


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
