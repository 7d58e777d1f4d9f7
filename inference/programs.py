"""Pyro programs as given by users: their data, their modules, and what surrounds a run and is put back after it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vae._checks import check_tensor

Program = Callable[..., Any]
"""A Pyro model or guide: a function or a module that calls ``pyro.sample``."""
Data = Tensor | tuple[Tensor, ...]
"""x, shape (N, *event); or a tuple of tensors with the data first in each, passed as separate arguments."""


def as_args(x: Data) -> tuple[Tensor, ...]:
    """Return the positional arguments that a program is called with."""
    return x if isinstance(x, tuple) else (x,)


def modules_of(program: Program) -> list[nn.Module]:
    """Return the modules that a program is made of: itself, its bound object, or those its function refers to."""
    if isinstance(program, nn.Module):
        return [program]
    if isinstance(program, partial):
        return modules_of(program.func)
    owner = getattr(program, "__self__", None)
    if isinstance(owner, nn.Module):
        return [owner]
    if owner is not None:
        return [value for value in vars(owner).values() if isinstance(value, nn.Module)]
    function = inspect.unwrap(program)
    if isinstance(function, nn.Module):  # one behind a handler, such as config_enumerate(guide)
        return [function]
    if not inspect.isfunction(function):
        return []
    names = inspect.getclosurevars(function)
    return [value for value in [*names.nonlocals.values(), *names.globals.values()] if isinstance(value, nn.Module)]


def modules_of_both(model: Program, guide: Program) -> list[nn.Module]:
    """Return the modules of model and guide, each once."""
    return list(dict.fromkeys([*modules_of(model), *modules_of(guide)]))


def check_data(model: Program, x: Data, name: str = "x", guide: Program | None = None) -> None:
    """Refuse data that no program can take, and those that model or guide themselves refuse.

    Both may have a method ``check_data(x, name=...)``; one of the model, such as that of ``VAE``, has the say on
    NaN and infinities.

    Raises:
        ValueError: for what is no tensor, empty, NaN or infinite, of a wrong dtype or outside the support.
    """
    args = as_args(x)
    own_checks = [check for program in (model, guide) if (check := getattr(program, "check_data", None)) is not None]
    for arg in args:
        judged_by_model = arg is args[0] and hasattr(model, "check_data")
        if not judged_by_model and (not isinstance(arg, Tensor) or arg.is_floating_point() or arg is args[0]):
            check_tensor(arg, name)
    for check in own_checks:
        check(*args, name=name)
    for arg in args:
        if len(arg) != len(args[0]):
            raise ValueError(f"Expected {len(args[0])} data in every tensor of {name}; got {len(arg)} in one.")
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
    """Move the programs' modules and the data to the device.

    "auto" is a GPU where there is one and both programs are modules: the parameters of plain functions live
    where the user created them, and then the data stay where they are.

    Raises:
        ValueError: if there is no such device.
    """
    if device == "auto":
        movable = isinstance(model, nn.Module) and isinstance(guide, nn.Module)
        device = ("cuda" if torch.cuda.is_available() else "cpu") if movable else args[0].device
    try:
        chosen = torch.device(device)
        moved = tuple(arg.to(chosen) for arg in args)
        for module in modules_of_both(model, guide):
            module.to(chosen)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].split(": cpu,")[0].split("device type at start")[0].rstrip(" :")
        raise ValueError(f'Cannot use device {device!r}: {reason}. Use device="auto" or "cpu".') from error
    return moved, chosen


@contextmanager
def fork_rng(device: torch.device, seed: int | None = None) -> Iterator[None]:
    """Run with a random state of its own on the CPU and this device, seeded if asked; put the global one back."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        if seed is not None:
            seed_rng(device, seed)
        yield


def seed_rng(device: torch.device, seed: int) -> None:
    """Seed the generators of the CPU and of this device, and of no other, as ``torch.manual_seed`` would."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


@contextmanager
def training_mode(model: Program, guide: Program, mode: bool) -> Iterator[None]:
    """Set the programs' modules to training or evaluation mode, and put back what was."""
    roots = modules_of_both(model, guide)
    before = {module: module.training for root in roots for module in root.modules()}
    for root in roots:
        root.train(mode)
    try:
        yield
    finally:
        for module, was in before.items():
            module.training = was
