"""Supports that torch lacks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints, transform_to
from torch.distributions.constraints import Constraint


class _OpenUnitInterval(Constraint):
    """Numbers strictly between 0 and 1."""

    def check(self, value: Tensor) -> Any:
        return (value > 0) & (value < 1)

    def __repr__(self) -> str:
        return "(0, 1)"


open_unit_interval = _OpenUnitInterval()


@dataclass(frozen=True)
class ColumnSupport:
    """What one column of a table accepts.

    Attributes:
        support: constraint on one number.
        owner: column and likelihood, for messages.
        hint: what a user can do about data outside the support.
    """

    support: Constraint
    owner: str
    hint: str


class ByColumn(Constraint):
    """A support of its own for each column of a table.

    Args:
        columns: what each accepts.

    Attributes:
        some_values: a number that each column accepts.
    """

    def __init__(self, columns: Sequence[ColumnSupport]) -> None:
        super().__init__()
        self.columns = tuple(columns)
        self.some_values = [some_value(column.support) for column in self.columns]

    def check(self, value: Tensor) -> Any:
        """Say for each entry whether its column accepts it, shape (..., number of columns)."""
        columns = zip(value.unbind(-1), self.columns, strict=True)
        return torch.stack([column.support.check(x) for x, column in columns], -1)

    def at(self, index: tuple[int, ...]) -> tuple[Constraint, str, str]:
        """Return support, owner and hint of the entry at an index, for a message about it."""
        column = self.columns[index[-1]]
        return column.support, column.owner, column.hint


def entrywise(support: Constraint) -> Constraint:
    """Return a constraint on single entries, from one on events of independent entries."""
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return support


def some_value(support: Constraint) -> float:
    """Return a number that a constraint on single entries accepts."""
    for value in (0.5, 0.0, 1.0):
        if bool(support.check(torch.tensor(value)).all()):
            return value
    return float(transform_to(support)(torch.zeros(())))
