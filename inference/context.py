"""What surrounds a run of a program: checked data, device, random state, training mode."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from pyro_vae._checks import check_tensor
from pyro_vae.inference.weights import Data, Program, as_args


def check_data(model: Program, x: Data, name: str = "x") -> None:
    """Refuse data that no program can take, and those that the model itself refuses.

    A model may have a method ``check_data(x, name=...)``, as ``VAE`` has.

    Raises:
        ValueError: for what is no tensor, empty, NaN or infinite, of a wrong dtype or outside the support.
    """
    args = as_args(x)
    for arg in args:
        if not isinstance(arg, Tensor) or arg.is_floating_point() or arg is args[0]:
            check_tensor(arg, name)
        if len(arg) != len(args[0]):
            raise ValueError(f"Expected {len(args[0])} data in every tensor of {name}; got {len(arg)} in one.")
    own_check = getattr(model, "check_data", None)
    if own_check is not None:
        own_check(args[0], name=name)
    _check_dtype(model, args[0], name)


def _check_dtype(model: Program, x: Tensor, name: str) -> None:
    dtypes = {p.dtype for p in model.parameters() if p.is_floating_point()} if isinstance(model, nn.Module) else set()
    if dtypes and x.dtype not in dtypes:
        (dtype, *_) = dtypes
        raise ValueError(
            f"Expected {name} of dtype {dtype}, as the model's parameters; got {x.dtype}. "
            f"Convert it: {name}.to({dtype})."
        )


def place(
    model: Program, guide: Program, args: tuple[Tensor, ...], device: str | torch.device
) -> tuple[tuple[Tensor, ...], torch.device]:
    """Move the programs that are modules, and the data, to the device.

    "auto" is a GPU where there is one and both programs are modules: the parameters of plain functions live
    where the user created them, and then the data stay where they are.

    Raises:
        ValueError: if there is no such device.
    """
    modules = [program for program in (model, guide) if isinstance(program, nn.Module)]
    if device == "auto":
        movable = len(modules) == 2
        device = ("cuda" if torch.cuda.is_available() else "cpu") if movable else args[0].device
    try:
        chosen = torch.device(device)
        moved = tuple(arg.to(chosen) for arg in args)
        for module in modules:
            module.to(chosen)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f'Cannot use device {device!r}: {reason} Use device="auto" or "cpu".') from error
    return moved, chosen


@contextmanager
def fork_rng(device: torch.device, seed: int | None = None) -> Iterator[None]:
    """Run with a random state of its own, seeded if asked, and put the global one back."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        if seed is not None:
            torch.manual_seed(seed)
        yield


@contextmanager
def training_mode(model: Program, guide: Program, mode: bool) -> Iterator[None]:
    """Set the programs that are modules to training or evaluation mode, and put back what was."""
    modules = [m for program in (model, guide) if isinstance(program, nn.Module) for m in program.modules()]
    before = [m.training for m in modules]
    for program in (model, guide):
        if isinstance(program, nn.Module):
            program.train(mode)
    try:
        yield
    finally:
        for module, was in zip(modules, before, strict=True):
            module.training = was
