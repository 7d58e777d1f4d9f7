"""Special functions that keep their accuracy in float32."""

from __future__ import annotations

import torch
from torch import Tensor

SWITCH = 16.0
"""Above it the asymptotic series of log Gamma is exact to 1e-11 with three terms."""


def log_gamma_ratio(a: Tensor, x: Tensor | float) -> Tensor:
    """Return log Gamma(a + x) - log Gamma(a) for a > 0 and x >= 0.

    The difference of two calls of lgamma loses everything for large a: in float32 it is wrong by whole nats at
    a = 1e7, just where the Student-t nears the normal and the negative binomial the Poisson. There Stirling's
    series is subtracted term by term.
    """
    small, large = a.clamp(max=SWITCH), a.clamp(min=SWITCH)
    series = (large + x - 0.5) * torch.log1p(x / large) + x * (large.log() - 1)
    series = series + _stirling_rest(large + x) - _stirling_rest(large)
    return torch.where(a > SWITCH, series, (small + x).lgamma() - small.lgamma())


def _stirling_rest(a: Tensor) -> Tensor:
    """Return log Gamma(a) - (a - 1/2) log a + a - log(2 pi) / 2 for large a."""
    square = a**-2
    return (1 / 12 - square * (1 / 360 - square / 1260)) / a
