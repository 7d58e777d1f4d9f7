"""Mixtures of diagonal normals, with gradients through the sampler for every parameter, the weights included."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vae.core.checks import check_positive_int
from pyro_vae.inference.guides.base import GuideFamily


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
