"""Pyro programs as given by users: their data, their modules, and what surrounds a run and is put back after it."""

from __future__ import annotations

import hashlib
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from types import CodeType, FunctionType, ModuleType
from typing import Any

import pyro
import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.nn.utils.rnn import PackedSequence

from pyro_vae.core.checks import check_dense, check_has_data, check_tensor

_FOREIGN = {"builtins", "functools", "matplotlib", "numpy", "pandas", "pyro", "scipy", "sklearn", "torch", "zuko"}
"""Packages whose functions and objects hold no modules of a user's."""
_TOOLS = {"_pytest", "execnet", "jsonargparse", "pluggy", "pytest", "tqdm", "xdist"}
"""Packages around programs, whose objects are not asked for anything."""
_STANDARD = sys.stdlib_module_names - {"__main__"}
"""Modules of Python's own, whose functions hold none."""
Program = Callable[..., Any]
"""A Pyro model or guide: a function or a module that calls ``pyro.sample``."""
Args = tuple[Tensor, ...]
"""The positional arguments of a program: tensors with the data first in each."""
Data = Tensor | Args
"""What users hand in: x, shape (N, *event), or such a tuple, passed as separate arguments."""
_ADVICE = (
    ("log_prob at site", "Give obs and the distribution there one shape, (N, *event): that of the data."),
    (
        "inside plate(",
        "Declare the dimensions of one datum as its event, with .to_event(n). Programs with parameters or latents of "
        "each datum take the data that they were made with, all at once: batch_size=N.",
    ),
    ("Multiple sample sites", "Give each site a name of its own."),
    ("", "Run model and guide on a few data by hand to see where: their shapes are to fit those of the data."),
)
"""What to do about errors whose message has these words, the first that fits."""
_full_precision: ContextVar[bool] = ContextVar("full_precision", default=False)


def as_args(x: Data, name: str = "x", program: Program | None = None) -> Args:
    """Return the positional arguments that a program is called with.

    Args:
        x: data, shape (N, *event), or a tuple of tensors.
        name: what a message calls them.
        program: whose arguments they are, for their names.

    Raises:
        ValueError: for nothing, and for what is no tensor, has no dimension or is not dense; with what to pass instead.
    """
    args: tuple[Any, ...] = x if isinstance(x, tuple) and not isinstance(x, PackedSequence) else (x,)
    if not args:
        raise ValueError(f"Expected {name} as tensors with the data first; got none.")
    if not all(
        isinstance(arg, Tensor) and arg.layout == torch.strided and arg.ndim and not arg.is_nested for arg in args
    ):
        for arg, (called, argument) in zip(args, _called(args, name, program), strict=True):
            check_dense(arg, called, argument)
            check_has_data(arg, called, argument)
    return args


def _called(args: tuple[Any, ...], name: str, program: Program | None) -> list[tuple[str, str]]:
    """Return what a message and what a line of code call each argument: "y (x[1])" and "y" for the second."""
    if len(args) == 1:
        return [(name, name)]
    try:
        function: Any = getattr(program, "check_data", None) or getattr(program, "forward", program)
        given = inspect.signature(function).parameters.values()
        known = [p.name for p in given if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.name != "name"]
    except (TypeError, ValueError):  # none is given, or a callable without a signature
        known = []
    rest = range(1, len(args))
    named = [(f"{known[i]} ({name}[{i}])", known[i]) if i < len(known) else (f"{name}[{i}]",) * 2 for i in rest]
    return [(name, name), *named]


def rows(args: Args, index: Tensor) -> Args:
    """Return some of the data, wherever the arguments are."""
    return tuple(arg[index.to(arg.device)] for arg in args)


def hash_of_data(args: Iterable[Tensor]) -> str:
    """Return a hash of the values and shapes of tensors."""
    digest = hashlib.sha256()
    for arg in args:
        digest.update(f"{tuple(arg.shape)}{arg.dtype}".encode())
        digest.update(arg.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def hash_of_values(args: Iterable[Tensor]) -> str:
    """Return a hash of the values of tensors to single precision, the same for float32 and float64 copies of them."""
    return hash_of_data(arg.float() if arg.is_floating_point() else arg for arg in args)


def modules_of(program: Program) -> list[nn.Module]:
    """Return the modules that a program is made of.

    Itself, or those found in what it is bound to, its closure, the globals that it names, the arguments of a
    ``partial``, and in lists, dicts and functions among them.
    """
    found: dict[nn.Module, None] = {}
    _collect(program, found, set())
    return list(found)


def _collect(value: Any, found: dict[nn.Module, None], seen: set[int]) -> None:
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, nn.Module):
        found[value] = None
    else:
        for part in _parts_of(value):
            _collect(part, found, seen)


def _parts_of(value: Any) -> Iterable[Any]:
    """Return the objects in which a program may hold modules."""
    if type(value).__module__.partition(".")[0] in _TOOLS:
        return []
    if isinstance(value, partial):
        return [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, list | tuple | set):
        return value
    if isinstance(value, dict):
        return value.values()
    if inspect.ismethod(value):
        return [value.__self__, value.__func__]
    unwrapped = _unwrapped(value)
    if inspect.isfunction(unwrapped):
        library = _is_foreign(unwrapped.__module__) or unwrapped.__module__.partition(".")[0] in _STANDARD | _TOOLS
        return [] if library else _parts_of_function(unwrapped)
    if unwrapped is not value:  # behind a handler, such as config_enumerate(guide)
        return [unwrapped]
    if isinstance(value, type | ModuleType):
        return [] if _is_foreign(getattr(value, "__module__", "builtins")) else _modules_in(value)
    return [] if _is_foreign(type(value).__module__) else _parts_of_object(value)


def _unwrapped(value: Any) -> Any:
    """Return what stands behind decorators, or the value itself."""
    try:
        return inspect.unwrap(value) if callable(value) and not isinstance(value, type) else value
    except ValueError:  # an object that has every attribute asked for
        return value


def _parts_of_function(function: FunctionType) -> list[Any]:
    """Return what a function and those written in it name: its closure, globals, members of modules, and defaults."""
    names = list(_names_in(function.__code__))
    named = [function.__globals__[name] for name in names if name in function.__globals__]
    own = (m for m in named if isinstance(m, ModuleType) and not _is_foreign(m.__name__))
    members = [vars(module)[name] for module in own for name in names if name in vars(module)]
    defaults = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    return [*inspect.getclosurevars(function).nonlocals.values(), *named, *members, *defaults]


def _names_in(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):  # a lambda, or a function that is defined inside
            yield from _names_in(constant)


def _parts_of_object(value: Any) -> list[Any]:
    """Return an object's attributes, those of its class, and what it does when it is called."""
    slots = [getattr(value, name) for name in getattr(type(value), "__slots__", ()) if hasattr(value, name)]
    parts = [*getattr(value, "__dict__", {}).values(), *slots]
    call = inspect.getattr_static(type(value), "__call__", None)
    own = inspect.isfunction(call) and not call.__module__.startswith("pyro_vae.")
    return [*parts, *_modules_in(type(value)), *([call] if own else [])]


def _modules_in(owner: Any) -> list[Any]:
    return [value for value in vars(owner).values() if isinstance(value, nn.Module)]


def _is_foreign(module: str | None) -> bool:
    return (module or "builtins").partition(".")[0] in _FOREIGN


def modules_of_both(model: Program, guide: Program) -> list[nn.Module]:
    """Return the modules of model and guide, each once."""
    return list(dict.fromkeys([*modules_of(model), *modules_of(guide)]))


def check_data(model: Program, x: Data, name: str = "x", guide: Program | None = None, *, joint: bool = False) -> None:
    """Refuse data that no program can take, and those that model or guide themselves refuse.

    Both may have a method ``check_data(x, name=...)``; one of the model, such as that of ``VAE``, decides about
    NaN and infinities in x, and is heard first about other arguments. Tensors of a data set that is one datum,
    ``joint``, may have different lengths.

    Raises:
        ValueError: for what is no tensor, empty, NaN or infinite, of a wrong dtype or outside the support.
    """
    args = as_args(x, name, model)
    if not hasattr(model, "check_data") and args[0].is_floating_point():
        check_tensor(args[0], name, ", or fill them and pass a mask of them to the programs, as a further argument")
    _check_by_program(model, args, name)
    for arg, (called, _) in zip(args[1:], _called(args, name, model)[1:], strict=True):
        if arg.is_floating_point():
            check_tensor(arg, called)
    _check_by_program(guide, args, name)
    for arg in args:
        if len(arg) != len(args[0]) and not joint:
            raise ValueError(f"Expected {len(args[0])} data in every tensor of {name}; got {len(arg)} in one.")
    if not len(args[0]):
        raise ValueError(f"Expected {name} with at least one datum; got shape {tuple(args[0].shape)}.")
    _check_dtype(model, args[0], name)


def _check_by_program(program: Program | None, args: Args, name: str) -> None:
    check = getattr(program, "check_data", None)
    if check is None:
        return
    try:
        inspect.signature(check).bind(*args, name=name)
    except TypeError:
        kind = type(program).__name__
        raise ValueError(
            f"Expected other data for {kind}; got {len(args)} tensors. See help({kind}.forward)."
        ) from None
    check(*args, name=name)


def _check_dtype(model: Program, x: Tensor, name: str) -> None:
    dtypes = {p.dtype for p in model.parameters() if p.is_floating_point()} if isinstance(model, nn.Module) else set()
    if dtypes and x.is_floating_point() and x.dtype not in dtypes:
        (dtype, *_) = dtypes
        raise ValueError(
            f"Expected {name} of dtype {dtype}, as the model's parameters; got {x.dtype}. "
            f"Convert it: {name}.to({dtype})."
        )


def place(model: Program, guide: Program, args: Args, device: str | torch.device) -> tuple[Args, torch.device]:
    """Move the programs' modules and the data to the device; see ``place_programs``."""
    chosen = place_programs(model, guide, args, device)
    return tuple(arg.to(chosen) for arg in args), chosen


def place_programs(model: Program, guide: Program, args: Args, device: str | torch.device) -> torch.device:
    """Move the programs' modules to the device, and return it.

    "auto" is a GPU where there is one and both programs are modules: the parameters of plain functions live
    where the user created them, and that is taken to be where the data are.

    Raises:
        ValueError: if there is no such device.
    """
    if device == "auto":
        movable = isinstance(model, nn.Module) and isinstance(guide, nn.Module)
        device = ("cuda" if torch.cuda.is_available() else "cpu") if movable else args[0].device
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
        for module in modules_of_both(model, guide):
            module.to(chosen)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].split(": cpu,")[0].split("device type at start")[0].rstrip(" :")
        raise ValueError(f'Cannot use device {device!r}: {reason}. Use device="auto" or "cpu".') from error
    return chosen


@contextmanager
def fork_rng(device: torch.device, seed: int | None = None) -> Iterator[None]:
    """Run with a random state of its own on the CPU and this device, seeded if asked; put the global one back."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        if seed is not None:
            seed_rng(device, seed)
        yield


@contextmanager
def short_errors() -> Iterator[None]:
    """Say in one line what went wrong in a program, at which site, and what to do, without Pyro's tables of shapes."""
    try:
        yield
    except (ValueError, RuntimeError) as error:
        message, table = _without_tables(str(error))
        if not table:
            raise
        raise type(error)(_at_site(message, table)) from error


def _without_tables(message: str) -> tuple[str, str]:
    """Return an error's message in one line, and the tables that Pyro appended to it."""
    starts = [start for start in map(message.find, ("Trace Shapes:", "Param Sites:", "Sample Sites:")) if start >= 0]
    start = min(starts, default=len(message))
    return " ".join(message[:start].split()), message[start:]


def _at_site(message: str, table: str) -> str:
    """Add to an error of a program what to do, and at which site, the last one that ran, where it names none."""
    ours = message.startswith(("Latent site", "Guide site", "Site ", "Cannot "))
    if ours or any(advice in message for _, advice in _ADVICE):  # of a program that runs inside another
        return message
    advice = next(advice for words, advice in _ADVICE if words in message)
    sites = re.findall(r"^\s*(\S+) dist\b", table.partition("Sample Sites:")[2], re.MULTILINE)
    at = "" if re.search(r"\bsites?\b", message) or not sites else f", after site {sites[-1]!r}"
    return f"{message.rstrip('.')}{at}. {advice}"


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


@contextmanager
def full_precision() -> Iterator[None]:
    """Run programs whose layers are to round more coarsely as they were given, to tell an error from rounding."""
    before = _full_precision.set(True)
    try:
        yield
    finally:
        _full_precision.reset(before)


def in_full_precision() -> bool:
    """Say whether programs run under ``full_precision``."""
    return _full_precision.get()


@contextmanager
def unvalidated() -> Iterator[None]:
    """Run without checks of distributions' arguments and warnings of NaN, each of which waits for the device."""
    before = Distribution._validate_args
    try:
        with pyro.validation_enabled(False):
            yield
    finally:
        Distribution.set_default_validate_args(before)
