"""Lower precision for the layers of networks, and for nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.nn import functional
from torch.nn.modules.conv import _ConvNd
from torch.overrides import TorchFunctionMode

from pyro_vae.core.checks import did_you_mean
from pyro_vae.inference.programs.call import Program, in_full_precision, modules_of

PRECISIONS = ("tf32", "bf16")
LAYERS = {
    functional.linear,
    *(functional.conv1d, functional.conv2d, functional.conv3d),
    *(functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d),
}
"""What linear and convolutional layers call."""
_rounding: ContextVar[float] = ContextVar("rounding", default=1e-3)


def check_precision(precision: str | None) -> None:
    """Refuse an unknown precision, with a ``ValueError``."""
    if precision is not None and precision not in PRECISIONS:
        known = ", ".join(f'"{name}"' for name in PRECISIONS)
        raise ValueError(
            f"Expected precision to be {known} or None; got {precision!r}.{did_you_mean(str(precision), PRECISIONS)}"
        )


@contextmanager
def at_precision(precision: str | None, device: torch.device, *programs: Program) -> Iterator[None]:
    """Let products of float32 matrices round their factors to TF32 where asked, and put torch's switch back."""
    coarse = precision == "bf16" or _in_tf32(precision, device, programs)
    rounding = _rounding.set(3e-2 if coarse else 1e-3)
    try:
        with _tf32() if precision == "tf32" else nullcontext():
            yield
    finally:
        _rounding.reset(rounding)


def _in_tf32(precision: str | None, device: torch.device, programs: Iterable[Program]) -> bool:
    """Say whether a GPU may round to TF32: matrix products where it was asked to, convolutions unless forbidden."""
    parts = (part for program in programs for module in modules_of(program) for part in module.modules())
    return device.type == "cuda" and (precision == "tf32" or any(isinstance(part, _ConvNd) for part in parts))


@contextmanager
def _tf32() -> Iterator[None]:
    if getattr(torch.backends.cuda.matmul, "fp32_precision", "") == "tf32":
        yield  # it is on, by torch's newer switch, with which the older one refuses to be mixed
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def rounding() -> float:
    """Return the relative error that two ways to compute a float32 result at this precision may differ by.

    In bfloat16, whose own is 0.4%, a compiled graph rounds in other places. For TF32, 0.05%, a GPU has kernels for
    some shapes and layouts alone, so that one of the two may be in full precision; entries of a gradient in which
    terms cancel then differ by 2%.
    """
    return _rounding.get()


def in_precision(program: Program, precision: str | None) -> Program:
    """Return a program whose networks run in bfloat16 where asked.

    Linear and convolutional layers between its sample statements take bfloat16 and return float32. What happens in
    a distribution, drawing and log densities with the networks of flows, stays as it is, as does float64.
    """
    return _InBfloat16(program) if precision == "bf16" else program


def as_given(program: Program) -> Program:
    """Return the program that was given to ``in_precision``."""
    return program.__wrapped__ if isinstance(program, _InBfloat16) else program


class _InBfloat16:
    def __init__(self, program: Program) -> None:
        self.__wrapped__ = program  # by which its modules are found

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if in_full_precision():
            return self.__wrapped__(*args, **kwargs)
        layers = _Bfloat16Layers()
        with layers, _OutsideDistributions(layers):
            return self.__wrapped__(*args, **kwargs)


class _Bfloat16Layers(TorchFunctionMode):
    """Rounds what layers of float32 take to bfloat16, and returns float32."""

    paused = False

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self.paused or func not in LAYERS or args[0].dtype != torch.float32:
            return func(*args, **kwargs)
        lowered = {name: _lowered(value) for name, value in kwargs.items()}
        return func(*map(_lowered, args), **lowered).to(torch.float32)


def _lowered(value: Any) -> Any:
    return value.bfloat16() if isinstance(value, Tensor) and value.dtype == torch.float32 else value


class _OutsideDistributions(Messenger):
    """Pauses the layers while a sample statement draws."""

    def __init__(self, layers: _Bfloat16Layers) -> None:
        super().__init__()
        self.layers = layers

    def _pyro_sample(self, msg: Any) -> None:
        self.layers.paused = True

    def _pyro_post_sample(self, msg: Any) -> None:
        self.layers.paused = False
