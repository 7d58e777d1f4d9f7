"""Functions of tensors, and of programs, compiled from a record of them and compared with the functions as they are."""

from __future__ import annotations

import math
import pickle
import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from pyro import get_param_store
from torch import Tensor

from pyro_vae.inference.compile.precision import rounding
from pyro_vae.inference.compile.record import REASONS, CannotCompileError, Function, record
from pyro_vae.inference.compile.rewrites import rewrite
from pyro_vae.inference.programs.call import Program, fork_rng, modules_of_both, unvalidated
from pyro_vae.inference.programs.state import state_kept


def layout(inputs: tuple[Tensor, ...]) -> list[tuple[torch.Size, torch.dtype, tuple[int, ...]]]:
    """Return what a graph takes for granted of its inputs: shapes, dtypes and the layout in memory."""
    return [(arg.shape, arg.dtype, arg.stride()) for arg in inputs]


class NotWorthwhileError(CannotCompileError):
    """A function whose compilation would take longer than it saves."""


def compile_function(
    function: Function,
    example: tuple[Tensor, ...],
    other: tuple[Tensor, ...],
    most_operations: float = math.inf,
    around: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> Function:
    """Return a compiled function of the same values and the same random numbers, for inputs of the example's shapes.

    Args:
        function: takes tensors and returns tensors or None; called once before, since what it finds out on its first
            call is no part of it.
        example: its arguments.
        other: further arguments, on which the compiled function is compared with the function as it is.
        most_operations: how many operations are worth compiling; the time that it takes is about proportional.
        around: surrounds each of the runs that are compared, to put back what they change.

    Raises:
        CannotCompileError: if it cannot be recorded or compiled, or has other values then.
        NotWorthwhileError: if it has more operations.
    """
    try:
        with warnings.catch_warnings(), unvalidated():  # the compiler would turn validation off for good
            warnings.simplefilter("ignore")  # advice of the compiler on its own settings
            graph = record(function, *example)
            if len(graph.graph.nodes) > most_operations:
                raise NotWorthwhileError(f"{len(graph.graph.nodes)} operations take longer to compile than it saves")
            rewrite(graph)
            fast = torch.no_grad()(torch.compile(graph, options=_options()))
            differs = not agree(*(_at_fixed_noise(f, other, around) for f in (fast, function)))
    except CannotCompileError:
        raise
    except Exception as error:  # whatever Python that cannot be recorded, or a compiler that is not there, raises
        raise CannotCompileError(_reason(error)) from error
    if differs:
        raise CannotCompileError("its record has other values at other data: the program acts on more than tensors")
    return fast


def _options() -> dict[str, Any]:
    """Have random numbers drawn by torch's own generator, as in a run that is not compiled, and skip what is checked.

    Callers see to it that shapes are those of the example; a graph has nothing else that could change. What the
    processor says of its vector instructions is taken on trust: to build a library with each takes seconds.
    """
    from torch._inductor import list_options

    options: dict[str, Any] = {"fallback_random": True}
    if "cpp.vec_isa_ok" in list_options():
        options["cpp.vec_isa_ok"] = True
    if hasattr(torch.compiler, "skip_all_guards_unsafe"):
        options["guard_filter_fn"] = torch.compiler.skip_all_guards_unsafe
    return options


def agree(left: tuple[Tensor | None, ...], right: tuple[Tensor | None, ...]) -> bool:
    """Say whether two results, a value and its gradients, are equal up to rounding.

    Judged by the largest entry of each tensor, and where that is no more than the rounding error of others, as a
    gradient is that is 0 in theory, by the largest of all gradients.
    """
    sizes = [0.0 if b is None else _largest(b) for b in right]

    def close(a: Tensor | None, b: Tensor | None, size: float) -> bool:
        if a is None or b is None:
            return a is b
        tolerance = rounding() if a.dtype.itemsize <= 4 else 1e-8
        atol = tolerance * (size + 1e-3 * max(sizes[1:], default=0.0))
        return torch.allclose(a, b, rtol=tolerance, atol=atol, equal_nan=True)

    return all(close(*three) for three in zip(left, right, sizes, strict=True))


def _largest(values: Tensor) -> float:
    """Return the largest finite absolute value, 0 of none."""
    return float(values.abs().nan_to_num(0.0, 0.0, 0.0).max()) if values.numel() else 0.0


def _at_fixed_noise(
    function: Function, args: tuple[Tensor, ...], around: Callable[[], AbstractContextManager[object]]
) -> tuple[Tensor | None, ...]:
    with around(), fork_rng(args[0].device, 0):
        return function(*args)


def _reason(error: Exception) -> str:
    text = f"{type(error).__name__} {error}"
    known = next((reason for part, reason in REASONS.items() if part in text), None)
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and "backend=" not in line]
    hint = "; delete that file, which the compiler did not finish" if "file too short" in text else ""
    return known or (lines or [type(error).__name__])[0][:200] + hint


def compile_programs(
    model: Program,
    guide: Program,
    function: Function,
    example: tuple[Tensor, ...],
    other: tuple[Tensor, ...],
    most_operations: float = math.inf,
) -> Function:
    """Compile a function of two programs, after a trial which says whether they keep anything but tensors.

    Args:
        model: one of the programs.
        guide: the other.
        function: takes tensors and returns tensors or None, and runs the programs.
        example: its arguments, tensors of the shapes that are compiled.
        other: further arguments, on which the compiled function is compared with the function as it is.
        most_operations: how many operations are worth compiling.

    Raises:
        CannotCompileError: if they do, or the function cannot be recorded or compiled, or has other values then.
            Buffers, attributes and parameters are as before.
        NotWorthwhileError: if it has more operations.
    """
    modules = modules_of_both(model, guide)
    with state_kept(modules) as attributes:
        with _no_other_noise(), fork_rng(example[0].device), _store_unchanged():
            try:
                function(*example)
            except Exception as error:  # the run that is not compiled raises it again, in the program's own words
                raise CannotCompileError(f"a program fails with {type(error).__name__}") from error
        if name := attributes.changed():
            raise CannotCompileError(
                f"a program sets {name!r} anew in each call; keep it in a buffer, changed in place"
            )
        return compile_function(function, example, other, most_operations, lambda: state_kept(modules))


@contextmanager
def _store_unchanged() -> Iterator[None]:
    """Refuse what announces new parameters or replaces one in Pyro's store, and take that back."""
    store = get_param_store()
    before = {name: (value, value.unconstrained()) for name, value in store.items()}
    yield
    for name, value in list(store.items()):
        if name not in before:
            del store[name]
            raise CannotCompileError(f"parameter {name!r} turns up during training")
        if value.unconstrained() is not before[name][1]:
            store[name] = before[name][0].detach()
            raise CannotCompileError(f"a program replaces parameter {name!r} in Pyro's store in each call")


@contextmanager
def _no_other_noise() -> Iterator[None]:
    """Refuse draws from the generators of Python or NumPy, and take them back: a record would repeat them for good."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - it is users' programs that draw
    try:
        yield
        drawn = random.getstate() != python or pickle.dumps(np.random.get_state()) != pickle.dumps(numpy)  # noqa: NPY002 - likewise
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
    if drawn:
        raise CannotCompileError("a program draws random numbers from Python or NumPy; draw them from torch")
