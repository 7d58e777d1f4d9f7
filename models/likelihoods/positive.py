"""Likelihoods of positive numbers."""

from __future__ import annotations

import pyro.distributions as dist
from torch import Tensor
from torch.distributions import constraints

from pyro_vae.core.modules import Shape
from pyro_vae.models.likelihoods.base import Likelihood
from pyro_vae.models.likelihoods.parameters import PositiveParameter, PositiveValue

_HINT = "Zeros have no density here: remove them, add a small constant to all data, or choose another likelihood."


class Gamma(Likelihood):
    """Independent gamma entries, p(x|z) = prod_i Gamma(x_i; alpha_i, alpha_i / m_i), log m = h.

    Args:
        event_shape: shape of one datum.
        concentration: alpha, with which the standard deviation is m / sqrt(alpha): a number fixes it; "shared"
            learns one, "dimension" one for each entry of x, and "datum" lets the decoder give log alpha.

    Raises:
        ValueError: if ``concentration`` is no positive number and none of the three names.
    """

    support = constraints.positive
    hint = _HINT

    def __init__(self, event_shape: Shape, concentration: PositiveValue = "shared") -> None:
        super().__init__(event_shape)
        self.concentration = PositiveParameter(concentration, self.event_shape, "concentration")

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        """Return p(x|z) for h = log m, or h = (log m, log alpha), of shape (..., num_features)."""
        log_mean, concentration = self._split(h)
        return self._independent(dist.Gamma(concentration, concentration * (-log_mean).exp()))


class LogNormal(Likelihood):
    """Independent log-normal entries, p(x|z) = prod_i N(log x_i; mu_i(z), sigma_i^2) / x_i.

    Args:
        event_shape: shape of one datum.
        scale: sigma, the standard deviation of log x. As in ``Normal``.

    Raises:
        ValueError: if ``scale`` is no positive number and none of the three names.
    """

    support = constraints.positive
    hint = _HINT

    def __init__(self, event_shape: Shape, scale: PositiveValue = "shared") -> None:
        super().__init__(event_shape)
        self.scale = PositiveParameter(scale, self.event_shape, "scale")

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        """Return p(x|z) for h = mu, or h = (mu, log sigma), of shape (..., num_features)."""
        loc, scale = self._split(h)
        return self._independent(dist.LogNormal(loc, scale))
