"""Likelihoods of counts."""

from __future__ import annotations

import pyro.distributions as dist
from torch import Tensor
from torch.distributions import constraints

from pyro_vae.core.checks import check_positive_int
from pyro_vae.core.modules import Shape
from pyro_vae.models.distributions import negative_binomial as _negative_binomial
from pyro_vae.models.likelihoods.base import Likelihood
from pyro_vae.models.likelihoods.parameters import PositiveParameter, PositiveValue

_HINT = "Counts are whole numbers: give them unscaled, or choose a likelihood for continuous data."


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
        return self._independent(dist.Binomial(self.total_count, logits=self._to_event(h)))


class Poisson(Likelihood):
    """Independent Poisson counts, p(x|z) = prod_i exp(-lambda_i) lambda_i^x_i / x_i!, log lambda = h.

    Args:
        event_shape: shape of one datum.
    """

    support = constraints.nonnegative_integer
    hint = _HINT

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        """Return p(x|z) for log rates h of shape (..., num_features)."""
        return self._independent(dist.Poisson(self._to_event(h).exp()))


class NegativeBinomial(Likelihood):
    """Independent counts of mean mu and variance mu + alpha mu^2, log mu = h, r = 1 / alpha.

        p(x|z) = prod_i Gamma(r + x_i) / (Gamma(r) x_i!) (mu_i / (r + mu_i))^x_i (r / (r + mu_i))^r

    Args:
        event_shape: shape of one datum.
        dispersion: alpha, 0 in the limit of the Poisson: a number fixes it; "shared" learns one, "dimension" one for
            each entry of x, and "datum" lets the decoder give log alpha.

    Raises:
        ValueError: if ``dispersion`` is no positive number and none of the three names.
    """

    support = constraints.nonnegative_integer
    hint = _HINT

    def __init__(self, event_shape: Shape, dispersion: PositiveValue = "dimension") -> None:
        super().__init__(event_shape)
        self.dispersion = PositiveParameter(dispersion, self.event_shape, "dispersion")

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        """Return p(x|z) for h = log mu, or h = (log mu, log alpha), of shape (..., num_features)."""
        log_mean, dispersion = self._split(h)
        return self._independent(_negative_binomial.NegativeBinomial(log_mean=log_mean, dispersion=dispersion))


class ZeroInflatedNegativeBinomial(Likelihood):
    """Independent counts with more zeros, p(x|z) = prod_i pi_i [x_i = 0] + (1 - pi_i) NB(x_i; mu_i, alpha_i).

    Args:
        event_shape: shape of one datum.
        dispersion: alpha, as in ``NegativeBinomial``.

    Raises:
        ValueError: if ``dispersion`` is no positive number and none of the three names.
    """

    support = constraints.nonnegative_integer
    hint = _HINT
    features_per_entry = 2

    def __init__(self, event_shape: Shape, dispersion: PositiveValue = "dimension") -> None:
        super().__init__(event_shape)
        self.dispersion = PositiveParameter(dispersion, self.event_shape, "dispersion")

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        """Return p(x|z) for h = (log mu, logit pi), and log alpha where the decoder gives it."""
        log_mean, gate, dispersion = self._split(h)
        counts = _negative_binomial.NegativeBinomial(log_mean=log_mean, dispersion=dispersion)
        return self._independent(_negative_binomial.ZeroInflated(counts, gate_logits=gate))
