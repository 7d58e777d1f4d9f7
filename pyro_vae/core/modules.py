"""What models and guides share: parameters as Pyro sites, and networks from factories."""

from __future__ import annotations

from collections.abc import Callable

import torch
from pyro.poutine.runtime import am_i_wrapped, effectful
from torch import Tensor, nn

Shape = torch.Size | tuple[int, ...] | int
Network = nn.Module | Callable[..., nn.Module]
"""A ready module, or a factory ``(in_features or in_shape, out_features) -> nn.Module``."""


@effectful(type="param")
def _param_site(value: Tensor) -> Tensor:
    return value


def expose_parameters(module: nn.Module) -> None:
    """Announce a module's parameters as Pyro param sites, without the global parameter store.

    Pyro's SVI finds what to optimise by listening for param sites. ``pyro.module`` would also file every
    parameter under a global name, where two models of one name share weights and none is ever freed.
    """
    if not am_i_wrapped():
        return
    prefix = f"{type(module).__name__}-{id(module)}"
    for name, param in module.named_parameters():
        if param.requires_grad:
            value = param.detach()
            value.unconstrained = lambda param=param: param  # type: ignore[attr-defined]
            _param_site(value, name=f"{prefix}$$${name}")


def as_shape(shape: Shape) -> torch.Size:
    """Return (784,) for 784, and any other shape as a ``torch.Size``."""
    return torch.Size((shape,) if isinstance(shape, int) else shape)


def build_network(network: Network, in_shape: Shape, out_features: int) -> nn.Module:
    """Call a factory with the widths it must have; return a ready module as it is.

    Raises:
        ValueError: if ``network`` is neither, or the factory returns no module.
    """
    if isinstance(network, nn.Module):
        return network
    if not callable(network):
        raise ValueError(
            f"Expected a network factory such as mlp((200, 200)) or an nn.Module; got {type(network).__name__}."
        )
    built = network(as_shape(in_shape), out_features)
    if not isinstance(built, nn.Module):
        raise ValueError(f"Expected the network factory to return an nn.Module; got {type(built).__name__}.")
    return built
