"""Mixtures of normals."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import nn

from pyro_vae.core.checks import check_positive_int
from pyro_vae.models.priors._settings import check_positive
from pyro_vae.models.priors.base import Prior


class Mixture(Prior):
    """Learnt mixture of C diagonal normals, p(z) = sum_c pi_c N(z; m_c, diag(s_c^2)).

    At first the weights are equal, the scales 1, and the means drawn from N(0, spread^2 I) by torch's global
    generator: components that start alike would stay alike.

    Args:
        dim: latent dimension D.
        num_components: C.
        spread: standard deviation of the first means.

    Raises:
        ValueError: if ``num_components`` is no positive integer or ``spread`` not positive.
    """

    def __init__(self, dim: int, num_components: int = 10, spread: float = 1.0) -> None:
        super().__init__()
        check_positive_int(dim, "dim")
        check_positive_int(num_components, "num_components")
        check_positive(spread, "spread")
        self.loc = nn.Parameter(spread * torch.randn(num_components, dim))
        self.log_scale = nn.Parameter(torch.zeros(num_components, dim))
        self.logits = nn.Parameter(torch.zeros(num_components))

    def forward(self) -> dist.TorchDistribution:
        """Return p(z), batch shape (), event shape (D,)."""
        components = dist.Normal(self.loc, self.log_scale.exp()).to_event(1)
        return dist.MixtureSameFamily(dist.Categorical(logits=self.logits), components)
