"""What priors and guides on the simplex share: its map to the reals, and relaxed one-hot vectors that stay on it."""

from __future__ import annotations

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Transform, constraints
from torch.nn.functional import pad


class Concrete(dist.RelaxedOneHotCategorical):
    """The concrete distribution, its draws kept inside the simplex where rounding would put them outside."""

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Return draws without a gradient, shape (*sample_shape, *batch, D)."""
        with torch.no_grad():
            return self.rsample(sample_shape)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Return draws of shape (*sample_shape, *batch, D), positive, each summing to one."""
        z = super().rsample(sample_shape)
        z = z.clamp(min=smallest_share(z.dtype))
        return z / z.sum(-1, keepdim=True)


class AdditiveLogistic(Transform):
    """The map u -> softmax(u_1, ..., u_(D-1), 0) from R^(D-1) to the simplex, |det| = prod_i z_i over all D shares."""

    domain = constraints.real_vector
    codomain = constraints.simplex
    bijective = True

    def __eq__(self, other: object) -> bool:
        """Return whether the other is the same map."""
        return isinstance(other, AdditiveLogistic)

    def __hash__(self) -> int:
        """Return one hash for all, as they are one map."""
        return hash(AdditiveLogistic)

    def _call(self, x: Tensor) -> Tensor:
        return pad(x, (0, 1)).softmax(-1).clamp(min=smallest_share(x.dtype))

    def _inverse(self, y: Tensor) -> Tensor:
        log_y = y.clamp(min=torch.finfo(y.dtype).tiny).log()
        return log_y[..., :-1] - log_y[..., -1:]

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Return log |det dy/dx|, shape (...)."""
        return pad(x, (0, 1)).log_softmax(-1).sum(-1)

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        """Return (..., D) for (..., D - 1)."""
        return torch.Size((*shape[:-1], shape[-1] + 1))

    def inverse_shape(self, shape: torch.Size) -> torch.Size:
        """Return (..., D - 1) for (..., D)."""
        return torch.Size((*shape[:-1], shape[-1] - 1))


def smallest_share(dtype: torch.dtype) -> float:
    """Return what a share that would vanish is set to: a number whose reciprocal a gradient can still multiply."""
    return torch.finfo(dtype).tiny ** 0.75
