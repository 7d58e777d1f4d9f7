"""Distribution objects as parts: Pyro's interface for those of torch, and a module for those that are fixed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.distributions.transforms import Transform


def as_pyro(distribution: Distribution) -> Any:
    """Return the distribution as one that ``pyro.sample`` takes, itself if it is one.

    Raises:
        ValueError: for anything but a distribution.
    """
    if not isinstance(distribution, Distribution):
        raise ValueError(f"Expected a part to return a torch or Pyro distribution; got {type(distribution).__name__}.")
    if isinstance(distribution, TorchDistributionMixin):
        return distribution
    return _rebuilt(distribution, lambda tensor: tensor)


class FixedDistribution(nn.Module):
    """A distribution object as a part: ``forward()`` returns it, and its tensors move with ``.to(...)``.

    Args:
        distribution: a torch or Pyro distribution without anything to learn.

    Raises:
        ValueError: if a tensor in it requires a gradient, which no optimiser would find.
    """

    def __init__(self, distribution: Distribution) -> None:
        super().__init__()
        self.distribution = _rebuilt(distribution, _refuse_gradient)

    def forward(self) -> Any:
        """Return the distribution."""
        return self.distribution

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FixedDistribution:
        super()._apply(fn, recurse)
        self.distribution = _rebuilt(self.distribution, fn)
        return self


def as_part(part: Distribution | Callable[..., Distribution]) -> Callable[..., Distribution]:
    """Return a part as given, a bare distribution as a module."""
    return FixedDistribution(part) if isinstance(part, Distribution) else part


def _refuse_gradient(tensor: Tensor) -> Tensor:
    if tensor.requires_grad:
        raise ValueError(
            "Expected a distribution with nothing to learn; one of its tensors requires a gradient. Write a module "
            "whose forward() builds it from nn.Parameters."
        )
    return tensor


def _rebuilt(value: Any, fn: Callable[[Tensor], Tensor]) -> Any:
    """Copy a distribution with fn applied to every tensor in it, and Pyro's interface on every part of it."""
    if isinstance(value, Tensor):
        return fn(value)
    if isinstance(value, list | tuple):
        return type(value)(_rebuilt(v, fn) for v in value)
    if not isinstance(value, Distribution | Transform):
        return value
    new = copy.copy(value)
    new.__dict__.update({name: _rebuilt(v, fn) for name, v in vars(value).items()})
    if isinstance(new, Distribution):
        new.__class__ = _pyro_class(type(new))  # type: ignore[arg-type]
    return new


@lru_cache
def _pyro_class(cls: Any) -> Any:
    """Return the class with Pyro's mixin, as Pyro itself derives its distributions from those of torch."""
    return cls if issubclass(cls, TorchDistributionMixin) else type(cls.__name__, (cls, TorchDistributionMixin), {})
