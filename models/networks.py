"""Network factories: ``(in_shape, out_features) -> nn.Module``, so that no width is typed twice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from pyro_vae._checks import check_positive_int

Factory = Callable[[torch.Size, int], nn.Module]


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
        return self.layers(x.flatten(-self.event_dim) if self.event_dim > 1 else x)


def mlp(hidden: Sequence[int] = (200, 200), activation: Callable[[], nn.Module] = nn.Tanh) -> Factory:
    """Return a factory of multilayer perceptrons.

    Args:
        hidden: widths of the hidden layers; an empty sequence gives an affine map.
        activation: class of the nonlinearity.

    Raises:
        ValueError: if a width is not a positive integer.
    """
    for width in hidden:
        check_positive_int(width, "hidden widths")

    def factory(in_shape: torch.Size, out_features: int) -> nn.Module:
        return MLP(in_shape, out_features, hidden, activation)

    return factory
