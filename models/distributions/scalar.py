"""What the distributions defined here share: parameters that broadcast, and ``expand``."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor


class ScalarDistribution(dist.TorchDistribution):
    """Base class of distributions of one number.

    Args:
        validate_args: as in torch.
        parameters: tensors, which broadcast to the batch shape, and settings that are none; attributes by name.
    """

    def __init__(self, *, validate_args: bool | None = None, **parameters: Any) -> None:
        self._tensors = tuple(name for name, value in parameters.items() if isinstance(value, Tensor))
        self.__dict__.update(parameters)
        shape = torch.broadcast_shapes(*(parameters[name].shape for name in self._tensors))
        self.__dict__.update({name: parameters[name].expand(shape) for name in self._tensors})
        super().__init__(shape, validate_args=validate_args)

    def expand(self, batch_shape: torch.Size, _instance: Any = None) -> ScalarDistribution:
        """Return the distribution with its parameters expanded."""
        new = self._get_checked_instance(ScalarDistribution, _instance)
        new.__dict__.update(vars(self))
        new.__dict__.update({name: getattr(self, name).expand(batch_shape) for name in self._tensors})
        super(ScalarDistribution, new).__init__(torch.Size(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    def _uniform(self, sample_shape: tuple[int, ...]) -> Tensor:
        """Return uniform numbers in the open unit interval, of the shape of a draw."""
        like = getattr(self, self._tensors[0])
        eps = torch.finfo(like.dtype).eps
        u = torch.rand(self._extended_shape(sample_shape), dtype=like.dtype, device=like.device)
        return u.clamp(eps / 2, 1 - eps / 2)
