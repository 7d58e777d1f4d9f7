"""Likelihoods of real numbers, of positive ones, and of shares between 0 and 1."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_vae.core.modules import Shape
from pyro_vae.models.distributions import double, scalar
from pyro_vae.models.likelihoods.base import Likelihood, PositiveParameter, PositiveValue, log_mean_of, logit_mean_of

_ZEROS_HINT = "Zeros have no density here: remove them, add a small constant to all data, or choose another likelihood."


class _LocationScale(Likelihood):
    """Base of the likelihoods whose first feature is a location, and which have a scale."""

    def __init__(self, event_shape: Shape, scale: PositiveValue = "shared") -> None:
        super().__init__(event_shape)
        self.scale = PositiveParameter(scale, self.event_shape, "scale")

    def start_at_column(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the map to mean and standard deviation (1 where there is no spread), and start the scale there."""
        spread = x.std(correction=0)
        loc, scale = self._feature_map(x.mean(), torch.where(spread > 0, spread, 1.0))
        if self.scale.per_datum:
            loc[1] = scale[0].log()
        elif self.scale.fixed is None:
            with torch.no_grad():
                self.scale.log_value.fill_(scale[0].log())
        return loc, scale


class Normal(_LocationScale):
    """Independent normal entries, p(x|z) = prod_i N(x_i; mu_i(z), sigma_i^2).

    Args:
        event_shape: shape of one datum.
        scale: the standard deviation sigma: a number fixes it; "shared" learns one, "dimension" one for
            each entry of x, and "datum" lets the decoder give one for each entry and each z.

    Raises:
        ValueError: if ``scale`` is neither a positive number nor one of the three names.
    """

    support = constraints.real

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        """Return p(x|z) for h = mu, or h = (mu, log sigma), of shape (..., num_features)."""
        loc, scale = self._split(h)
        return self._independent(dist.Normal(loc, scale))


class Laplace(_LocationScale):
    """Independent Laplace entries, p(x|z) = prod_i exp(-|x_i - mu_i(z)| / b_i) / (2 b_i).

    Args:
        event_shape: shape of one datum.
        scale: b, the mean absolute deviation; the standard deviation is sqrt(2) b. A number fixes it; "shared" learns
            one, "dimension" one for each entry of x, and "datum" lets the decoder give log b.

    Raises:
        ValueError: if ``scale`` is neither a positive number nor one of the three names.
    """

    support = constraints.real

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        """Return p(x|z) for h = mu, or h = (mu, log b), of shape (..., num_features)."""
        loc, scale = self._split(h)
        return self._independent(dist.Laplace(loc, scale))


class StudentT(_LocationScale):
    """Independent Student-t entries, p(x|z) = prod_i t_nu((x_i - mu_i(z)) / sigma_i) / sigma_i.

    Args:
        event_shape: shape of one datum.
        scale: sigma, which the standard deviation exceeds by the factor sqrt(nu / (nu - 2)). A number fixes it;
            "shared" learns one, "dimension" one for each entry of x, and "datum" lets the decoder give log sigma.
        df: degrees of freedom nu: a number fixes them; "shared" learns one number from 5 on, "dimension" one for each
            entry of x, and "datum" lets the decoder give nu = 5 exp(h). The mean is NaN where nu <= 1.

    Raises:
        ValueError: if ``scale`` or ``df`` is neither a positive number nor one of the three names.
    """

    support = constraints.real

    def __init__(self, event_shape: Shape, scale: PositiveValue = "shared", df: PositiveValue = "shared") -> None:
        super().__init__(event_shape, scale)
        self.df = PositiveParameter(df, self.event_shape, "df", initial=5.0)

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        """Return p(x|z) for h = mu, with log sigma and log(nu / 5) where the decoder gives them."""
        loc, scale, df = self._split(h)
        return self._independent(scalar.StudentT(df, loc, scale))


class Gamma(Likelihood):
    """Independent gamma entries, p(x|z) = prod_i Gamma(x_i; alpha_i, alpha_i / m_i), log m = h.

    Args:
        event_shape: shape of one datum.
        concentration: alpha, with which the standard deviation is m / sqrt(alpha): a number fixes it; "shared"
            learns one, "dimension" one for each entry of x, and "datum" lets the decoder give log alpha.

    Raises:
        ValueError: if ``concentration`` is neither a positive number nor one of the three names.
    """

    support = constraints.positive
    hint = _ZEROS_HINT

    def __init__(self, event_shape: Shape, concentration: PositiveValue = "shared") -> None:
        super().__init__(event_shape)
        self.concentration = PositiveParameter(concentration, self.event_shape, "concentration")

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        """Return p(x|z) for h = log m, or h = (log m, log alpha), of shape (..., num_features)."""
        log_mean, concentration = self._split(h)
        return self._independent(double.Gamma(log_mean, concentration))

    def start_at_column(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the map to log m at the mean of the data."""
        return self._feature_map(log_mean_of(x))


class LogNormal(_LocationScale):
    """Independent log-normal entries, p(x|z) = prod_i N(log x_i; mu_i(z), sigma_i^2) / x_i.

    Args:
        event_shape: shape of one datum.
        scale: sigma, the standard deviation of log x: a number fixes it; "shared" learns one, "dimension" one for
            each entry of x, and "datum" lets the decoder give log sigma.

    Raises:
        ValueError: if ``scale`` is neither a positive number nor one of the three names.
    """

    support = constraints.positive
    hint = _ZEROS_HINT

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        """Return p(x|z) for h = mu, or h = (mu, log sigma), of shape (..., num_features)."""
        loc, scale = self._split(h)
        return self._independent(double.LogNormal(loc, scale))

    def start_at_column(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the map to mean and standard deviation of log x, and start the scale there."""
        return super().start_at_column(x.log())


class ContinuousBernoulli(Likelihood):
    """Independent continuous Bernoulli entries, p(x|z) = prod_i exp(eta_i x_i) eta_i / (exp(eta_i) - 1), eta = h.

    Args:
        event_shape: shape of one datum.

    Source: Loaiza-Ganem and Cunningham (2019), whose lambda has logit eta.
    """

    support = constraints.unit_interval
    hint = "Bring the data into [0, 1], for 8-bit grey levels by dividing by 255."

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        """Return p(x|z) for natural parameters h of shape (..., num_features)."""
        return self._independent(scalar.ContinuousBernoulli(logits=self._to_event(h)))


class _OpenUnitInterval(constraints.Constraint):
    """Numbers strictly between 0 and 1."""

    def check(self, value: Tensor) -> Any:
        return (value > 0) & (value < 1)

    def __repr__(self) -> str:
        return "(0, 1)"


_open_unit_interval = _OpenUnitInterval()


class Beta(Likelihood):
    """Independent beta entries, p(x|z) = prod_i Beta(x_i; kappa_i m_i, kappa_i (1 - m_i)), logit m = h.

    Args:
        event_shape: shape of one datum.
        concentration: kappa, with which the variance is m (1 - m) / (kappa + 1): a number fixes it; "shared" learns
            one from 5 on, "dimension" one for each entry of x, and "datum" lets the decoder give kappa = 5 exp(h).

    Raises:
        ValueError: if ``concentration`` is neither a positive number nor one of the three names.

    Source: Ferrari and Cribari-Neto (2004), section 2, where kappa is phi.
    """

    support = _open_unit_interval
    hint = (
        "The density is 0 or infinite at 0 and 1: move such entries inside, (x * (n - 1) + 0.5) / n, or choose "
        "ContinuousBernoulli."
    )

    def __init__(self, event_shape: Shape, concentration: PositiveValue = "shared") -> None:
        super().__init__(event_shape)
        self.concentration = PositiveParameter(concentration, self.event_shape, "concentration", initial=5.0)

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        """Return p(x|z) for h = logit m, or h = (logit m, log(kappa / 5)), of shape (..., num_features)."""
        logit, concentration = self._split(h)
        return self._independent(double.Beta(logit, concentration))

    def start_at_column(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the map to logit m at the mean of the data."""
        return self._feature_map(logit_mean_of(x))
