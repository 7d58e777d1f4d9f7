"""What a conditional model is given beside x: classes or real covariates y, as vectors and as inputs of networks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from pyro_vae.core.checks import check_positive_int

UNKNOWN = -1
"""The class index of a datum whose class is not known."""


@dataclass(frozen=True)
class Covariates:
    """The kind of y: a class index, seen by networks as a one-hot vector, or a vector of real numbers.

    Args:
        num_classes: number of classes; y is then of shape (N,), an integer dtype, 0 <= y < num_classes.
        num_covariates: number of real covariates E; y is then of shape (N, E).

    Raises:
        ValueError: unless exactly one of the two is given, an integer >= 1.
    """

    num_classes: int | None = None
    num_covariates: int | None = None

    def __post_init__(self) -> None:
        given = {name: value for name, value in vars(self).items() if value is not None}
        if len(given) != 1:
            got = given or "neither"
            raise ValueError(
                f"Expected either num_classes, for class indices, or num_covariates, for real ones; got {got}."
            )
        for name, value in given.items():
            check_positive_int(value, name)

    @property
    def width(self) -> int:
        """Width of y as a vector."""
        return self.num_classes or self.num_covariates or 0

    def encode(self, y: Tensor, like: Tensor) -> Tensor:
        """Return y as vectors of shape (..., width), of the dtype of ``like``.

        Args:
            y: shape (...) of class indices, or (..., width) of real covariates.
            like: a tensor of the networks' dtype.

        Raises:
            ValueError: if y has another shape or dtype.
        """
        if self.num_classes is None:
            self._check_real(y)
            return y.to(like.dtype)
        self._check_integer(y)
        return one_hot(y.long(), self.num_classes).to(like.dtype)

    def check(self, y: Tensor, name: str = "y", lowest: int = 0) -> None:
        """Refuse values that y cannot have.

        Args:
            y: shape (N,) of class indices, or (N, width) of real covariates.
            name: what the message calls y.
            lowest: the smallest index that is allowed.

        Raises:
            ValueError: for a wrong shape or dtype, NaN, infinities, or an index out of range.
        """
        if self.num_classes is None:
            self._check_real(y, name)
            outside = ~y.isfinite()
            allowed = "finite numbers"
        else:
            self._check_known(y, name, lowest)
            self._check_integer(y, name)
            outside = (y < lowest) | (y >= self.num_classes)
            allowed = f"{{{lowest}, ..., {self.num_classes - 1}}}"
        if outside.any():
            index = tuple(outside.nonzero()[0].tolist())
            raise ValueError(f"Expected {name} in {allowed}; got {y[index].item():g} at index {index}.")

    def _check_known(self, y: Tensor, name: str, lowest: int) -> None:
        """Refuse labels that are unknown as NaN, which no integer says."""
        if y.is_floating_point() and y.isnan().any():
            unknown = f"Give unknown labels as {lowest}: {name}.nan_to_num(nan={lowest}).long()."
            raise ValueError(
                f"Expected {name} of class indices, an integer dtype; got {y.dtype} with NaN. "
                f"{unknown if lowest < 0 else 'Remove those data.'}"
            )

    def _check_integer(self, y: Tensor, name: str = "y") -> None:
        if y.is_floating_point() or y.is_complex():
            raise ValueError(
                f"Expected {name} of class indices, an integer dtype; got {y.dtype}. Convert it: {name}.long()."
            )

    def _check_real(self, y: Tensor, name: str = "y") -> None:
        if not y.is_floating_point() or y.ndim == 0 or y.shape[-1] != self.width:
            raise ValueError(
                f"Expected {name} of shape (N, {self.width}), a floating-point dtype; got {tuple(y.shape)}, {y.dtype}."
            )


def joint_shape(event_shape: torch.Size, width: int) -> torch.Size:
    """Return the event shape of ``join``: the first dimension is longer by ``width``."""
    return torch.Size((event_shape[0] + width, *event_shape[1:]))


def join(x: Tensor, y: Tensor, event_shape: torch.Size) -> Tensor:
    """Put y beside x along the first dimension of its event, the same everywhere along the others.

    A vector x is lengthened by y; an image (C, H, W) gets one constant channel for each entry of y.

    Args:
        x: shape (..., *event_shape).
        y: shape (..., width); leading dimensions broadcast against those of x.
        event_shape: that of x.

    Returns:
        a tensor of shape (..., event_shape[0] + width, *event_shape[1:]).
    """
    rest = event_shape[1:]
    leading = torch.broadcast_shapes(x.shape[: x.ndim - len(event_shape)], y.shape[:-1])
    y = y.reshape(*y.shape, *[1] * len(rest)).expand(*leading, y.shape[-1], *rest)
    return torch.cat([x.expand(*leading, *event_shape), y], -len(event_shape))
