"""Priors on R^D: normals, heavy tails, mixtures, flows, and the improper flat one."""

from __future__ import annotations

from typing import NoReturn

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_vae.core.checks import check_positive_int
from pyro_vae.core.flows import build_flow
from pyro_vae.models.priors.base import Prior, check_positive, keep, log_of


class StandardNormal(Prior):
    """Standard normal prior, p(z) = N(z; 0, I).

    Args:
        dim: latent dimension D.

    Source: Kingma and Welling (2014), Auto-Encoding Variational Bayes, section 3.
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        check_positive_int(dim, "dim")
        self.register_buffer("loc", torch.zeros(dim), persistent=False)
        self.register_buffer("scale", torch.ones(dim), persistent=False)

    def forward(self) -> dist.TorchDistribution:
        """Return N(0, I), batch shape (), event shape (D,)."""
        return dist.Normal(self.loc, self.scale).to_event(1)


class DiagonalNormal(Prior):
    """Normal prior with learnt mean and scales, p(z) = N(z; m, diag(s^2)), at first N(z; 0, I).

    Args:
        dim: latent dimension D.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        check_positive_int(dim, "dim")
        self.loc = nn.Parameter(torch.zeros(dim))
        self.log_scale = nn.Parameter(torch.zeros(dim))

    def forward(self) -> dist.TorchDistribution:
        """Return N(m, diag(s^2)), batch shape (), event shape (D,)."""
        return dist.Normal(self.loc, self.log_scale.exp()).to_event(1)


class FullNormal(Prior):
    """Normal prior with learnt mean and covariance, p(z) = N(z; m, L L^T), at first N(z; 0, I).

    L is lower triangular, with a positive diagonal.

    Args:
        dim: latent dimension D.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        check_positive_int(dim, "dim")
        self.loc = nn.Parameter(torch.zeros(dim))
        self.log_diagonal = nn.Parameter(torch.zeros(dim))
        self.below = nn.Parameter(torch.zeros(dim, dim))

    def forward(self) -> dist.TorchDistribution:
        """Return N(m, L L^T), batch shape (), event shape (D,)."""
        scale_tril = self.below.tril(-1) + self.log_diagonal.exp().diag()
        return dist.MultivariateNormal(self.loc, scale_tril=scale_tril)


class StudentT(Prior):
    """Independent Student-t entries, p(z) = prod_i t_nu(z_i / s) / s; nu = 1 is the Cauchy law.

    Args:
        dim: latent dimension D.
        df: degrees of freedom nu.
        scale: s; the standard deviation is s sqrt(nu / (nu - 2)) for nu > 2, and infinite below.
        learnable: learn nu and s of each dimension, from these values on.

    Raises:
        ValueError: if ``df`` or ``scale`` is not positive.
    """

    log_df: Tensor
    log_scale: Tensor

    def __init__(self, dim: int, df: float = 4.0, scale: float = 1.0, learnable: bool = False) -> None:
        super().__init__()
        keep(self, "log_df", log_of(df, "df", dim), learnable)
        keep(self, "log_scale", log_of(scale, "scale", dim), learnable)

    def forward(self) -> dist.TorchDistribution:
        """Return p(z), batch shape (), event shape (D,)."""
        return dist.StudentT(self.log_df.exp(), torch.zeros_like(self.log_scale), self.log_scale.exp()).to_event(1)


class Mixture(Prior):
    """Learnt mixture of C diagonal normals, p(z) = sum_c pi_c N(z; m_c, diag(s_c^2)).

    At first the weights are equal, the scales 1, and the means drawn from N(0, spread^2 I) by torch's global
    generator: components that start alike would stay alike.

    Args:
        dim: latent dimension D.
        num_components: C.
        spread: standard deviation of the first means.

    Raises:
        ValueError: if ``num_components`` is not a positive integer or ``spread`` not positive.
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


class Flow(Prior):
    """Learnt normalizing flow, p(z) = N(f(z); 0, I) |det df/dz|.

    A prior is scored at each step and seldom drawn from, so that the kinds that score in one pass (maf, nsf) suit
    it; those of the inverse direction (iaf, nsf_inverse) suit a guide.

    Args:
        dim: latent dimension D.
        kind: maf, nsf, nsf_coupling, realnvp, iaf or nsf_inverse; splines act within [-5, 5].
        transforms: number of transformations in a row.
        hidden: widths of the hidden layers of each one's network.

    Raises:
        ValueError: for an unknown kind, or sizes that are no positive integers.

    Source: Papamakarios et al. (2021), Normalizing Flows for Probabilistic Modeling and Inference; library zuko.
    """

    def __init__(self, dim: int, kind: str = "nsf", transforms: int = 3, hidden: tuple[int, ...] = (64, 64)) -> None:
        super().__init__()
        self.flow = build_flow(kind, dim, transforms=transforms, hidden=hidden)

    def forward(self) -> dist.TorchDistribution:
        """Return p(z), batch shape (), event shape (D,)."""
        return self.flow()


class Flat(Prior):
    """Improper flat prior on R^D, log p(z) = 0 everywhere.

    It has no draws, and does not integrate to one: what is then called log p(x) is the logarithm of
    int p(x|z) dz, no log-probability of x, and not to be compared with that of another model.

    Args:
        dim: latent dimension D.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        check_positive_int(dim, "dim")
        self.dim = dim

    def forward(self) -> dist.TorchDistribution:
        """Return the improper distribution, batch shape (), event shape (D,)."""
        return _Improper(constraints.real_vector, torch.Size(), torch.Size((self.dim,)))


class _Improper(dist.ImproperUniform):
    """Pyro's improper distribution, with a log density of the value's dtype and device."""

    def log_prob(self, value: Tensor) -> Tensor:
        """Return 0 for every value, shape (...), for z of shape (..., D)."""
        batch_shape = torch.broadcast_shapes(value.shape[: value.ndim - self.event_dim], self.batch_shape)
        return value.new_zeros(()).expand(batch_shape)  # made where the value is: a copy would wait for the device

    def sample(self, sample_shape: torch.Size = torch.Size()) -> NoReturn:  # noqa: B008
        """Refuse to draw."""
        raise ValueError(
            "A flat prior is improper: it has no draws, and log p(x) under it is no probability. "
            "Choose a proper prior, such as StandardNormal, to sample or to estimate log p(x)."
        )
