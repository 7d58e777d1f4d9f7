"""Likelihoods of binary data."""

from __future__ import annotations

import pyro.distributions as dist
from torch import Tensor
from torch.distributions import constraints

from pyro_vae.models.likelihoods.base import Likelihood


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
        return self._independent(dist.Bernoulli(logits=self._to_event(h)))
