"""Families of continuous guides: normals, heavy tails, mixtures, flows, laws on the simplex, and the point mass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints, transform_to

from pyro_vae.core.checks import check_positive_int, check_several
from pyro_vae.core.flows import build_flow
from pyro_vae.core.simplex import AdditiveLogistic
from pyro_vae.inference.guides.base import GuideFamily


class _LocationScale(GuideFamily):
    """Base of the families of independent entries by location and scale, h = (mu, log sigma)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        check_positive_int(dim, "dim")
        self.num_features = 2 * dim


class DiagonalNormal(_LocationScale):
    """Diagonal normal family, q(z|x) = N(z; mu, diag(sigma^2)), h = (mu, log sigma).

    Args:
        dim: latent dimension D.

    Source: Kingma and Welling (2014), section 3, equation 9.
    """

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        """Return q(z|x) for h of shape (..., 2 D)."""
        loc, log_scale = h.chunk(2, -1)
        return dist.Normal(loc, log_scale.exp()).to_event(1)


class FullRankNormal(GuideFamily):
    """Full-covariance normal family, q(z|x) = N(z; mu, L L^T), L lower triangular with a positive diagonal.

    h = (mu, the lower triangle of L row by row, with the logarithm of its diagonal). It holds the exact posterior
    of a linear-Gaussian model, whose coordinates are correlated given x.

    Args:
        dim: latent dimension D; h has D + D (D + 1) / 2 entries.

    Source: Rezende, Mohamed and Wierstra (2014), section 4, on structured posterior covariances.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        check_positive_int(dim, "dim")
        self.dim, self.num_features = dim, dim + dim * (dim + 1) // 2

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        """Return q(z|x) for h of shape (..., D + D (D + 1) / 2)."""
        loc, triangle = h.split([self.dim, self.num_features - self.dim], -1)
        row, column = torch.tril_indices(self.dim, self.dim, device=h.device)  # a mask would wait for the device
        matrix = h.new_zeros(*h.shape[:-1], self.dim, self.dim)
        matrix[..., row, column] = triangle
        scale_tril = transform_to(constraints.lower_cholesky)(matrix)
        return dist.MultivariateNormal(loc, scale_tril=scale_tril)


class LowRankNormal(GuideFamily):
    """Normal family of low rank plus diagonal, q(z|x) = N(z; mu, W W^T + diag(sigma^2)), h = (mu, log sigma, W).

    Args:
        dim: latent dimension D; h has D (R + 2) entries.
        rank: number R of columns of W, the directions along which coordinates vary together.

    Raises:
        ValueError: if the rank is greater than D.

    Source: Ong, Nott and Smith (2018), Gaussian Variational Approximation with a Factor Covariance Structure;
    with R = 1: Rezende, Mohamed and Wierstra (2014), section 4.
    """

    def __init__(self, dim: int, rank: int = 2) -> None:
        super().__init__()
        check_positive_int(dim, "dim")
        check_positive_int(rank, "rank")
        if rank > dim:
            raise ValueError(f"Expected rank <= dim={dim}; got {rank}. FullRankNormal has every covariance.")
        self.dim, self.rank, self.num_features = dim, rank, dim * (rank + 2)

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        """Return q(z|x) for h of shape (..., D (R + 2))."""
        loc, log_scale, factor = h.split([self.dim, self.dim, self.dim * self.rank], -1)
        cov_factor = factor.unflatten(-1, (self.dim, self.rank))
        return dist.LowRankMultivariateNormal(loc, cov_factor, cov_diag=(2 * log_scale).exp())


class Laplace(_LocationScale):
    """Laplace family, q(z|x) = prod_i exp(-|z_i - mu_i| / b_i) / (2 b_i), h = (mu, log b).

    The scale b is not the standard deviation, which is sqrt(2) b.

    Args:
        dim: latent dimension D.
    """

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        """Return q(z|x) for h of shape (..., 2 D)."""
        loc, log_scale = h.chunk(2, -1)
        return dist.Laplace(loc, log_scale.exp()).to_event(1)


class StudentT(_LocationScale):
    """Student-t family, q(z|x) = prod_i t_nu(z_i; mu_i, sigma_i), h = (mu, log sigma).

    Its polynomial tails dominate those of a normal posterior, so that the weights p(x, z) / q(z|x) are bounded even
    where the scale is too small.

    Args:
        dim: latent dimension D.
        df: degrees of freedom nu; the tails fall as |z|^-(nu + 1).

    Raises:
        ValueError: if ``df`` is not positive.
    """

    def __init__(self, dim: int, df: float = 5.0) -> None:
        super().__init__(dim)
        if not df > 0:
            raise ValueError(f"Expected df > 0; got {df!r}.")
        self.df = df

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        """Return q(z|x) for h of shape (..., 2 D)."""
        loc, log_scale = h.chunk(2, -1)
        return dist.StudentT(self.df, loc, log_scale.exp()).to_event(1)


class Mixture(GuideFamily):
    """Mixture family, q(z|x) = sum_c pi_c N(z; mu_c, diag(sigma_c^2)), h = (logits of pi, all mu, all log sigma).

    Draws are differentiable in every feature by implicit reparameterisation: see ``NormalMixture``.

    Args:
        dim: latent dimension D; h has C (2 D + 1) entries.
        num_components: C.

    Source: implicit reparameterisation: Figurnov, Mohamed and Mnih (2018), Implicit Reparameterization Gradients,
    section 4; Graves (2016), Stochastic Backpropagation through Mixture Density Distributions.
    """

    def __init__(self, dim: int, num_components: int = 5) -> None:
        super().__init__()
        check_positive_int(dim, "dim")
        check_positive_int(num_components, "num_components")
        self.dim, self.num_components = dim, num_components
        self.num_features = num_components * (2 * dim + 1)

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        """Return q(z|x) for h of shape (..., C (2 D + 1))."""
        logits, components = h.split([self.num_components, 2 * self.num_components * self.dim], -1)
        loc, log_scale = components.unflatten(-1, (2, self.num_components, self.dim)).unbind(-3)
        return NormalMixture(dist.Categorical(logits=logits), dist.Normal(loc, log_scale.exp()).to_event(1))


class NormalMixture(dist.MixtureSameFamily):
    """A mixture of diagonal normals whose draws are differentiable.

    A draw solves F(z; phi) = u, with u uniform and F the distribution functions of each coordinate given those
    before it, F_i = sum_c r_ci Phi((z_i - mu_ci) / sigma_ci), r_ci = p(c | z_1, ..., z_(i-1)). Hence

        dz / dphi = -(dF / dz)^-1 dF / dphi,

    where dF / dz is lower triangular: no root is sought, and the component that a draw came from plays no part.
    ``pyro.distributions.MixtureOfDiagNormals`` follows another path, on which the gradient for the weights is NaN
    where two components share their mean, and in some 50 dimensions everywhere.
    """

    has_rsample = True

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Return draws of shape (*sample_shape, *batch, D)."""
        with torch.no_grad():
            z = self.sample(sample_shape)
        return _Implicit.apply(z, *self._distribution_functions(z)) if torch.is_grad_enabled() else z

    def _distribution_functions(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return F at z, shape (..., D), up to a constant, and its Jacobian by z, shape (..., D, D)."""
        normal = self.component_distribution.base_dist
        standard = (z.unsqueeze(-2) - normal.loc) / normal.scale  # (..., C, D)
        log_density = normal.log_prob(z.unsqueeze(-2))
        before = log_density.cumsum(-1) - log_density
        weight = (self.mixture_distribution.logits.unsqueeze(-1) + before).softmax(-2)
        # Of Phi and Phi - 1 the smaller, lest tails cancel.
        upper = (weight * standard).sum(-2, keepdim=True) > 0
        phi = torch.where(upper, -torch.special.ndtr(-standard), torch.special.ndtr(standard))
        total = (weight * phi).sum(-2)
        with torch.no_grad():
            slope = -standard / normal.scale
            below = (weight * (phi - total.unsqueeze(-2))).mT @ slope
            density = (weight * log_density.exp()).sum(-2)
        return total, below.tril(-1) + density.diag_embed()


class _Implicit(torch.autograd.Function):
    """The value z, with the gradient -(dF / dz)^-1 dF / dphi; its second derivative is refused, not guessed."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, total: Tensor, jacobian: Tensor) -> Tensor:
        ctx.save_for_backward(jacobian)
        return z.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, None]:
        if torch.is_grad_enabled():
            raise ValueError(
                "Draws of a mixture have a first derivative only: use SemiAmortized(..., differentiate=False), or a "
                "family whose draws are smooth functions of the features."
            )
        (jacobian,) = ctx.saved_tensors
        solved = torch.linalg.solve_triangular(jacobian.mT, gradient.unsqueeze(-1), upper=True)
        return None, -solved.squeeze(-1), None


class Flow(GuideFamily):
    """Flow family, z = f^-1(e; h), e ~ N(0, I): q(z|x) = N(f(z; h); 0, I) |det df/dz|, h a context for every layer.

    A guide is drawn from at each step, so that the kinds that draw in one pass suit it (iaf, nsf_inverse,
    nsf_coupling, realnvp). A draw is scored while it is drawn; other values are scored too, by D passes for iaf and
    nsf_inverse, which the gradients "stl" and "dreg" pay.

    Args:
        dim: latent dimension D.
        kind: iaf, nsf_inverse, nsf_coupling, realnvp, maf or nsf; splines act within [-5, 5].
        transforms: number of transformations in a row.
        hidden: widths of the hidden layers of each one's network.
        num_context: width of h.

    Raises:
        ValueError: for an unknown kind, or sizes that are no positive integers.

    Source: Rezende and Mohamed (2015), Variational Inference with Normalizing Flows; iaf: Kingma et al. (2016);
    library zuko.
    """

    def __init__(
        self,
        dim: int,
        kind: str = "iaf",
        transforms: int = 3,
        hidden: tuple[int, ...] = (64, 64),
        num_context: int = 64,
    ) -> None:
        super().__init__()
        check_positive_int(num_context, "num_context")
        self.num_features = num_context
        self.flow = build_flow(kind, dim, num_context, transforms, hidden)

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        """Return q(z|x) for h of shape (..., num_context)."""
        return self.flow(h)


class LogisticNormal(GuideFamily):
    """Logistic-normal family on the simplex of D shares, z = softmax(u, 0), u ~ N(mu, diag(sigma^2)) in R^(D-1).

    h = (mu, log sigma). The density is that by the first D - 1 shares, as the Dirichlet's. ``torch``'s own
    logistic normal breaks a stick instead, whose inverse subtracts shares from one: in float32 and ten dimensions
    its log_prob is off by thousands of nats.

    Args:
        dim: number of shares D >= 2; h has 2 (D - 1) entries.

    Raises:
        ValueError: if there is one share only.

    Source: Aitchison and Shen (1980), Logistic-Normal Distributions: Some Properties and Uses.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        check_several(dim, "shares")
        self.num_features = 2 * (dim - 1)

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        """Return q(z|x) for h of shape (..., 2 (D - 1))."""
        loc, log_scale = h.chunk(2, -1)
        normal = dist.Normal(loc, log_scale.exp()).to_event(1)
        return dist.TransformedDistribution(normal, [AdditiveLogistic()])


class PointMass(GuideFamily):
    """Point mass at the encoder's output, q(z|x) = delta(z - h): the guide of a plain autoencoder.

    It has no density, so that log q(z|x) counts as 0 and the bound is log p(x, z) at z = h: with a flat prior the
    reconstruction alone, with a proper one the joint density that a MAP estimate of z maximises. Neither is
    a bound on log p(x), and ``evidence`` refuses it.

    Args:
        dim: latent dimension D.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        check_positive_int(dim, "dim")
        self.num_features = dim

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        """Return the point mass at h, shape (..., D)."""
        return dist.Delta(h, event_dim=1)
