"""Checks of users' input, made once at the boundary, each with a message that says what to do."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import constraints

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


def check_tensor(x: Tensor, name: str = "x") -> None:
    """Refuse anything but a finite floating-point tensor with at least one datum.

    Args:
        x: data, shape (N, *event).
        name: what the message calls it.

    Raises:
        ValueError: if x is not such a tensor; the message names the first bad entry.
    """
    if not isinstance(x, Tensor):
        raise ValueError(
            f"Expected {name} to be a torch.Tensor; got {type(x).__name__}. "
            f"Convert it: torch.as_tensor({name}, dtype=torch.float32)."
        )
    if x.ndim == 0 or x.shape[0] == 0:
        raise ValueError(f"Expected {name} with at least one datum; got shape {tuple(x.shape)}.")
    if not x.is_floating_point():
        raise ValueError(f"Expected {name} of a floating-point dtype; got {x.dtype}. Convert it: {name}.float().")
    finite = torch.isfinite(x)
    if not finite.all():
        index = _first(~finite)
        hint = ", or let NaN be missing: load_data(..., missing=True) and VAE(..., missing=True)"
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
        raise ValueError(f"Expected {name} to be an integer >= {at_least}; got {value!r}. {why}".rstrip())


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
