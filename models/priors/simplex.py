"""Priors on the simplex: entries that are positive and sum to one, such as shares or topics.

Densities are by Lebesgue measure on the first D - 1 entries, as torch's on the simplex are.
"""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vae.core.checks import check_several
from pyro_vae.core.simplex import AdditiveLogistic
from pyro_vae.models.priors.base import Prior, keep, log_of


class Dirichlet(Prior):
    """Dirichlet prior, p(z) = Gamma(sum_i a_i) prod_i z_i^(a_i - 1) / Gamma(a_i).

    Args:
        dim: latent dimension D, the number of shares.
        concentration: a_i of each share; below 1 sparse, 1 uniform.
        learnable: learn each a_i, from this value on.

    Raises:
        ValueError: for fewer than two shares, or unless ``concentration`` is positive.
    """

    log_concentration: Tensor

    def __init__(self, dim: int, concentration: float = 1.0, learnable: bool = False) -> None:
        super().__init__()
        check_several(dim, "shares")
        keep(self, "log_concentration", log_of(concentration, "concentration", dim), learnable)

    def forward(self) -> dist.TorchDistribution:
        """Return p(z), batch shape (), event shape (D,), support the simplex."""
        return dist.Dirichlet(self.log_concentration.exp())


class LogisticNormal(Prior):
    """Logistic-normal prior, z = softmax(y) with y ~ N(m, diag(s^2)) in R^D.

        p(z) = N(log(z_-D / z_D); m_-D - m_D, diag(s_-D^2) + s_D^2 1 1^T) / prod_i z_i,   z_-D = (z_1, ..., z_{D-1})

    The softmax forgets what all y_i have in common; what is left, the D - 1 log ratios, has the normal law above.
    At first m = 0, and no share is special.

    Args:
        dim: latent dimension D, the number of shares.
        scale: s_i of each share.
        learnable: learn m and s, from these values on.

    Raises:
        ValueError: for fewer than two shares, or unless ``scale`` is positive.

    Source: Aitchison and Shen (1980), Logistic-normal distributions.
    """

    loc: Tensor
    log_scale: Tensor

    def __init__(self, dim: int, scale: float = 1.0, learnable: bool = False) -> None:
        super().__init__()
        check_several(dim, "shares")
        keep(self, "loc", torch.zeros(dim), learnable)
        keep(self, "log_scale", log_of(scale, "scale", dim), learnable)

    def forward(self) -> dist.TorchDistribution:
        """Return p(z), batch shape (), event shape (D,), support the simplex."""
        variance = (2 * self.log_scale).exp()
        ratios = dist.MultivariateNormal(self.loc[:-1] - self.loc[-1], variance[:-1].diag() + variance[-1])
        return dist.TransformedDistribution(ratios, [AdditiveLogistic()])
