"""Likelihoods of numbers between 0 and 1."""

from __future__ import annotations

import pyro.distributions as dist
from torch import Tensor
from torch.distributions import constraints

from pyro_vae.core.modules import Shape
from pyro_vae.models.distributions import continuous_bernoulli as _continuous_bernoulli
from pyro_vae.models.likelihoods.base import Likelihood
from pyro_vae.models.likelihoods.parameters import PositiveParameter, PositiveValue
from pyro_vae.models.likelihoods.supports import open_unit_interval


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
        return self._independent(_continuous_bernoulli.ContinuousBernoulli(logits=self._to_event(h)))


class Beta(Likelihood):
    """Independent beta entries, p(x|z) = prod_i Beta(x_i; kappa_i m_i, kappa_i (1 - m_i)), logit m = h.

    Args:
        event_shape: shape of one datum.
        concentration: kappa, with which the variance is m (1 - m) / (kappa + 1): a number fixes it; "shared" learns
            one from 5 on, "dimension" one for each entry of x, and "datum" lets the decoder give kappa = 5 exp(h).

    Raises:
        ValueError: if ``concentration`` is no positive number and none of the three names.

    Source: Ferrari and Cribari-Neto (2004), section 2, where kappa is phi.
    """

    support = open_unit_interval
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
        return self._independent(dist.Beta(concentration * logit.sigmoid(), concentration * (-logit).sigmoid()))
