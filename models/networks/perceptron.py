"""What a network factory is, and multilayer perceptrons: an activation after each layer, or a gate in it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from pyro_vae.core.checks import check_positive_int

Factory = Callable[[torch.Size, int], nn.Module]
"""Called with the event shape of the input and the width of the output."""


class NetworkFactory(ABC):
    """Base class of the network factories shipped here; any function or class with the same call will do."""

    @abstractmethod
    def __call__(self, in_shape: torch.Size, out_features: int) -> nn.Module:
        """Return a network that maps (..., *in_shape) to (..., out_features)."""


def check_widths(widths: Sequence[int], name: str) -> None:
    """Refuse widths that are not positive integers, with a ``ValueError``."""
    for width in widths:
        check_positive_int(width, name)


class MLP(nn.Module):
    """A multilayer perceptron on the flattened event.

    Args:
        in_shape: event shape of the input.
        out_features: width of the output.
        hidden: widths of the hidden layers.
        activation: class of the nonlinearity.
    """

    def __init__(
        self,
        in_shape: torch.Size,
        out_features: int,
        hidden: Sequence[int],
        activation: Callable[[], nn.Module],
    ) -> None:
        super().__init__()
        self.event_dim = len(in_shape)
        widths = [torch.Size(in_shape).numel(), *hidden]
        layers: list[nn.Module] = []
        for fan_in, fan_out in pairwise(widths):
            layers += [nn.Linear(fan_in, fan_out), activation()]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], out_features))

    def forward(self, x: Tensor) -> Tensor:
        """Map x of shape (..., *in_shape) to (..., out_features)."""
        return self.layers(_flat(x, self.event_dim))


class GatedMLP(nn.Module):
    """A multilayer perceptron of gated layers, (A x + b) * sigmoid(C x + d), and an affine one at the end.

    Args:
        in_shape: event shape of the input.
        out_features: width of the output.
        hidden: widths of the gated layers.
    """

    def __init__(self, in_shape: torch.Size, out_features: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.event_dim = len(in_shape)
        widths = [torch.Size(in_shape).numel(), *hidden]
        layers: list[nn.Module] = []
        for fan_in, fan_out in pairwise(widths):
            layers += [nn.Linear(fan_in, 2 * fan_out), nn.GLU(-1)]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], out_features))

    def forward(self, x: Tensor) -> Tensor:
        """Map x of shape (..., *in_shape) to (..., out_features)."""
        return self.layers(_flat(x, self.event_dim))


def _flat(x: Tensor, event_dim: int) -> Tensor:
    return x.flatten(-event_dim) if event_dim > 1 else x


@dataclass(frozen=True)
class mlp(NetworkFactory):
    """Multilayer perceptrons: an activation after each hidden layer, and an affine map.

    Args:
        hidden: widths of the hidden layers; an empty sequence gives an affine map.
        activation: class of the nonlinearity.

    Raises:
        ValueError: if a width is not a positive integer.
    """

    hidden: Sequence[int] = (200, 200)
    activation: Callable[[], nn.Module] = nn.Tanh

    def __post_init__(self) -> None:
        check_widths(self.hidden, "hidden widths")

    def __call__(self, in_shape: torch.Size, out_features: int) -> nn.Module:
        """Return the network."""
        return MLP(in_shape, out_features, self.hidden, self.activation)


@dataclass(frozen=True)
class gated_mlp(NetworkFactory):
    """Multilayer perceptrons whose layers are gated, (A x + b) * sigmoid(C x + d).

    Args:
        hidden: widths of the gated layers; the defaults are those of Tomczak and Welling.

    Raises:
        ValueError: if a width is not a positive integer.

    Source: Tomczak and Welling (2018), VAE with a VampPrior, section 5; the gate: Dauphin et al. (2017), Language
    Modeling with Gated Convolutional Networks, equation 1.
    """

    hidden: Sequence[int] = (300, 300)

    def __post_init__(self) -> None:
        check_widths(self.hidden, "hidden widths")

    def __call__(self, in_shape: torch.Size, out_features: int) -> nn.Module:
        """Return the network."""
        return GatedMLP(in_shape, out_features, self.hidden)
