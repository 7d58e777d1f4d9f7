"""Likelihoods of real numbers."""

from __future__ import annotations

import math

import pyro.distributions as dist
from torch import Tensor
from torch.distributions import constraints

from pyro_vae.core.modules import Shape
from pyro_vae.models.distributions.special import log_gamma_ratio
from pyro_vae.models.likelihoods.base import Likelihood
from pyro_vae.models.likelihoods.parameters import PositiveParameter, PositiveValue


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

    def __init__(self, event_shape: Shape, scale: PositiveValue = "shared") -> None:
        super().__init__(event_shape)
        self.scale = PositiveParameter(scale, self.event_shape, "scale")

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        """Return p(x|z) for h = mu, or h = (mu, log sigma), of shape (..., num_features)."""
        loc, scale = self._split(h)
        return self._independent(dist.Normal(loc, scale))


class Laplace(Likelihood):
    """Independent Laplace entries, p(x|z) = prod_i exp(-|x_i - mu_i(z)| / b_i) / (2 b_i).

    Args:
        event_shape: shape of one datum.
        scale: b, the mean absolute deviation; the standard deviation is sqrt(2) b. As in ``Normal``.

    Raises:
        ValueError: if ``scale`` is no positive number and none of the three names.
    """

    support = constraints.real

    def __init__(self, event_shape: Shape, scale: PositiveValue = "shared") -> None:
        super().__init__(event_shape)
        self.scale = PositiveParameter(scale, self.event_shape, "scale")

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        """Return p(x|z) for h = mu, or h = (mu, log b), of shape (..., num_features)."""
        loc, scale = self._split(h)
        return self._independent(dist.Laplace(loc, scale))


class StudentT(Likelihood):
    """Independent Student-t entries, p(x|z) = prod_i t_nu((x_i - mu_i(z)) / sigma_i) / sigma_i.

    Args:
        event_shape: shape of one datum.
        scale: sigma, which the standard deviation exceeds by sqrt(nu / (nu - 2)). As in ``Normal``.
        df: degrees of freedom nu: a number, or learnt from 5 on as ``scale`` is, nu = 5 exp(h) by datum. The mean
            is NaN where nu <= 1.

    Raises:
        ValueError: if ``scale`` or ``df`` is no positive number and none of the three names.
    """

    support = constraints.real

    def __init__(self, event_shape: Shape, scale: PositiveValue = "shared", df: PositiveValue = "shared") -> None:
        super().__init__(event_shape)
        self.scale = PositiveParameter(scale, self.event_shape, "scale")
        self.df = PositiveParameter(df, self.event_shape, "df", initial=5.0)

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        """Return p(x|z) for h = mu, with log sigma and log(nu / 5) where the decoder gives them."""
        loc, scale, df = self._split(h)
        return self._independent(_StudentT(df, loc, scale))


class _StudentT(dist.StudentT):
    """Student-t whose constant keeps its accuracy as df grows."""

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        y = (value - self.loc) / self.scale
        constant = log_gamma_ratio(self.df / 2, 0.5) - (self.df * math.pi).log() / 2 - self.scale.log()
        return constant - (self.df + 1) / 2 * (y**2 / self.df).log1p()
