"""Checks of users' input, made once at the boundary, each with a message that says what to do."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import constraints
from torch.nn.utils.rnn import PackedSequence
from torch.utils.data import DataLoader, Dataset, TensorDataset

_IN_WORDS = (
    (constraints.boolean, "{0, 1}"),
    (constraints.nonnegative_integer, "{0, 1, 2, ...}"),
    (constraints.real, "the real numbers"),
    (constraints.positive, "(0, inf)"),
    (constraints.nonnegative, "[0, inf)"),
    (constraints.unit_interval, "[0, 1]"),
)


def entrywise(support: constraints.Constraint) -> Any:
    """Return a constraint on single entries, from one on events of independent entries."""
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return support


def describe_support(support: constraints.Constraint) -> str:
    """Name a support as a set: "{0, 1}", "{0, ..., 16}", "(0, inf)"."""
    base = entrywise(support)
    for known, words in _IN_WORDS:
        if base is known:
            return words
    if isinstance(base, type(constraints.integer_interval(0, 1))):
        return f"{{{int(base.lower_bound)}, ..., {int(base.upper_bound)}}}"
    if isinstance(base, type(constraints.interval(0, 1))):
        return f"[{float(base.lower_bound):g}, {float(base.upper_bound):g}]"
    return str(base)


def _first(bad: Tensor) -> tuple[int, ...]:
    return tuple(bad.nonzero()[0].tolist())


def needs_double(values: np.ndarray) -> bool:
    """Say whether there are whole numbers that float32 cannot hold, such as 16,777,217: counts that would be others."""
    wide = values.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        whole = (wide == np.round(wide)) & (np.abs(wide) < 2.0**53)  # beyond, all doubles are
        return bool(((wide.astype(np.float32) != wide) & whole).any())


def check_dense(x: object, name: str = "x", argument: str = "") -> None:
    """Refuse anything but a dense tensor, and say what to pass in its place.

    Args:
        x: what was handed in.
        name: what the message calls it.
        argument: what a line of code calls it, ``name`` if absent.

    Raises:
        ValueError: for anything else.
    """
    argument = argument or name
    if not isinstance(x, Tensor):
        raise ValueError(f"Expected {name} to be a torch.Tensor; got {type(x).__name__}. {_instead(x, argument)}")
    if x.is_nested:
        raise ValueError(
            f"Expected {name} to be dense; got a nested tensor. Pad it, {argument}.to_padded_tensor(0.0), and pass the "
            "mask of its entries as a further argument."
        )
    if x.layout != torch.strided:
        raise ValueError(f"Expected {name} to be dense; got {x.layout}. Convert it: {argument}.to_dense().")


def check_has_data(x: Tensor, name: str, argument: str) -> None:
    """Refuse a tensor without dimensions, as of a constant, with a ``ValueError``."""
    if x.ndim == 0:
        raise ValueError(
            f"Expected {name} with the data first; got a tensor without dimensions. {_constant(argument, '...')}"
        )


def _constant(argument: str, value: str) -> str:
    keyword = argument if argument.isidentifier() else "name"
    return f"It is no data: fix a constant in model and guide with functools.partial(program, {keyword}={value})."


def _instead(x: object, argument: str) -> str:
    """Return what to do with something that is no tensor."""
    if x is None or isinstance(x, bool | int | float | complex | str):
        return _constant(argument, repr(x))
    if isinstance(x, PackedSequence):
        return f"Pass padded tensors and lengths: torch.nn.utils.rnn.pad_packed_sequence({argument}, batch_first=True)."
    if isinstance(x, DataLoader):
        return f"Pass the tensors of its dataset, such as {argument}.dataset.tensors; minibatches are made here."
    if isinstance(x, TensorDataset):
        return f"Pass its tensors: {argument}.tensors."
    if isinstance(x, Dataset):
        return f"Pass its data as tensors, such as torch.stack([item[0] for item in {argument}])."
    if isinstance(x, Mapping):
        return "Pass a tuple of its tensors, in the order of the program's arguments."
    if isinstance(x, list) and any(isinstance(item, Tensor) for item in x):
        return f"Pass a tuple, tuple({argument}), for several arguments, or one tensor, torch.stack({argument})."
    if not isinstance(x, list) and not hasattr(x, "__array__"):
        return "Pass data as tensors with the data first."
    whole = getattr(getattr(x, "dtype", None), "kind", "f") in "biu"
    values = f"{argument}.to_numpy()" if hasattr(x, "to_numpy") else argument
    return f"Convert it: torch.as_tensor({values}{'' if whole else ', dtype=torch.float32'})."


def check_tensor(x: Tensor, name: str = "x", hint: str = "") -> None:
    """Refuse anything but a finite floating-point tensor with at least one datum.

    Args:
        x: data, shape (N, *event).
        name: what the message calls it.
        hint: what can be done about NaN beside leaving those data out, ", or ...".

    Raises:
        ValueError: if x is not such a tensor; the message names the first bad entry.
    """
    check_dense(x, name)
    if x.ndim == 0 or x.shape[0] == 0:
        raise ValueError(f"Expected {name} with at least one datum; got shape {tuple(x.shape)}.")
    if not x.is_floating_point():
        raise ValueError(f"Expected {name} of a floating-point dtype; got {x.dtype}. Convert it: {name}.float().")
    finite = torch.isfinite(x)
    if not finite.all():
        index = _first(~finite)
        raise ValueError(
            f"Expected {name} without NaN or infinities; got {x[index].item()} at index {index} "
            f"({int((~finite).sum())} such entries). Remove those data{hint if x[index].isnan() else ''}."
        )


def check_event(x: Tensor, event_shape: torch.Size, name: str = "x", leading: int | None = 1) -> None:
    """Refuse x of another event shape.

    Args:
        x: data, shape (N, *event_shape).
        event_shape: shape of one datum.
        name: what the message calls x.
        leading: number of dimensions before those of the event; any number if None.

    Raises:
        ValueError: if x has another shape.
    """
    if x.shape[x.ndim - len(event_shape) if leading is None else leading :] != event_shape:
        expected = ", ".join(["N", *map(str, event_shape)])
        same_size = x.shape[1:].numel() == event_shape.numel()
        hint = f" Reshape it: {name}.reshape(-1, {', '.join(map(str, event_shape))})." if same_size else ""
        raise ValueError(f"Expected {name} of shape ({expected}); got {tuple(x.shape)}.{hint}")


def check_support(x: Tensor, support: constraints.Constraint, owner: str, name: str = "x", hint: str = "") -> None:
    """Refuse x outside a likelihood's support.

    Args:
        x: data, shape (N, *event).
        support: the elementwise or event-wise constraint.
        owner: the likelihood's name, for the message.
        name: what the message calls x.
        hint: what the user can do about it.

    Raises:
        ValueError: naming the first value outside the support and its index.
    """
    support = entrywise(support)  # so that the message can name an entry
    inside = support.check(x)
    if not inside.all():
        index = _first(~inside)
        value = x[index]
        if hasattr(support, "at"):  # each column has a support of its own
            support, owner, hint = support.at(index)
        got = f"{value.item():g}" if value.ndim == 0 else f"a value of shape {tuple(value.shape)}"
        raise ValueError(
            f"Expected {name} in {describe_support(support)} for {owner}; got {got} at index {index}. {hint}".rstrip()
        )


def check_int(value: int, name: str, at_least: int, why: str = "") -> None:
    """Refuse anything but an integer of at least so much, with a ``ValueError`` that ends in a sentence of why."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < at_least:
        raise ValueError(f"Expected {name} to be an integer >= {at_least}; got {reprlib.repr(value)}. {why}".rstrip())


def check_positive_int(value: int, name: str) -> None:
    """Refuse anything but an integer of at least 1, with a ``ValueError``."""
    check_int(value, name, 1)


def check_seed(seed: int, *, recorded: bool = False) -> int:
    """Return a seed as an int.

    Args:
        seed: an integer in [-2^63, 2^64), the seeds of torch's generators.
        recorded: allow only those in [0, 2^63), which ``initial_seed`` of every generator returns as they were given.

    Raises:
        ValueError: for anything else.
    """
    low, high, words = (0, 2**63, "in [0, 2**63)") if recorded else (-(2**63), 2**64, "of at most 64 bits")
    if isinstance(seed, bool) or not isinstance(seed, Integral) or not low <= seed < high:
        raise ValueError(f"Expected seed to be an integer {words}; got {seed!r}.")
    return int(seed)


def check_several(dim: int, what: str) -> None:
    """Refuse fewer than two dimensions, where one leaves no choice, with a ``ValueError``."""
    check_positive_int(dim, "dim")
    if dim < 2:
        raise ValueError(f"Expected dim >= 2 for {what}; got {dim}.")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return " Did you mean NAME?" for the nearest known name, whatever its case, or ""."""
    folded = {k.lower(): k for k in known}
    near = get_close_matches(name.lower(), folded, n=1, cutoff=0.5)
    return f" Did you mean {folded[near[0]]}?" if near else ""
