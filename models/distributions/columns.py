"""The distribution of a row of a table, with a distribution and a support of its own for each column."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints, transform_to
from torch.distributions.constraints import Constraint

from pyro_vae.core.checks import entrywise
from pyro_vae.models.distributions.scalar import Levels


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


def some_value(support: Constraint) -> float:
    """Return a number that a constraint on single entries accepts."""
    for value in (0.5, 0.0, 1.0):
        if bool(support.check(torch.tensor(value)).all()):
            return value
    return float(transform_to(support)(torch.zeros(())))


def fill_missing(x: Tensor, support: Constraint) -> Tensor:
    """Return x with every NaN replaced by some value of the support; which one makes no difference to the score."""
    if isinstance(support, ByColumn):
        return torch.where(x.isnan(), x.new_tensor(support.some_values), x)
    return x.masked_fill(x.isnan(), some_value(entrywise(support)))


class Columns(dist.TorchDistribution):
    """Independent columns, p(x) = prod_j p_j(x_j), where masked the product over observed columns.

    Args:
        columns: distributions of event shape (1,), one for each column.
        support: what each column accepts.
        observed: whether each entry counts, a boolean tensor that broadcasts with x, shape (..., columns); all if
            absent. What stands in the others, NaN included, does not matter.
        validate_args: whether to check values; torch's default if absent.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(
        self,
        columns: Sequence[dist.TorchDistribution],
        support: ByColumn,
        observed: Tensor | None = None,
        validate_args: bool | None = None,
    ) -> None:
        self.columns, self.by_column, self.observed = tuple(columns), support, observed
        batch_shape = torch.broadcast_shapes(*(column.batch_shape for column in columns))
        super().__init__(batch_shape, torch.Size((len(self.columns),)), validate_args=validate_args)

    @constraints.dependent_property(event_dim=1)
    def support(self) -> Any:
        """Support of each column."""
        return constraints.independent(self.by_column, 1)

    def masked(self, observed: Tensor) -> Columns:
        """Return the distribution of the observed entries alone.

        Args:
            observed: boolean tensor that broadcasts with x, shape (..., columns).
        """
        return Columns(self.columns, self.by_column, observed, validate_args=self._validate_args)

    def entry_log_prob(self, value: Tensor) -> Tensor:
        """Return log p_j(x_j) of each entry in nats, 0 where it is not observed.

        Args:
            value: x, shape (..., columns).

        Returns:
            scores, shape (..., columns).

        Raises:
            ValueError: for another number of columns.
        """
        if value.shape[-1] != len(self.columns):
            raise ValueError(f"Expected x with {len(self.columns)} columns; got {value.shape[-1]}.")
        entries = value.split(1, -1) if self.observed is None else self._filled(value, self.observed).split(1, -1)
        scores = torch.stack([column.log_prob(x) for column, x in zip(self.columns, entries, strict=True)], -1)
        return scores if self.observed is None else torch.where(self.observed, scores, 0.0)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p(x) of the observed entries, in nats."""
        return self.entry_log_prob(value).sum(-1)

    def sample(self, sample_shape: tuple[int, ...] = ()) -> Tensor:
        """Draw whole rows, whatever is observed."""
        shape = torch.Size(sample_shape)
        return torch.cat([column.expand(self.batch_shape).sample(shape) for column in self.columns], -1)

    @property
    def mean(self) -> Tensor:
        """Mean of each column, shape (..., columns); of a column with levels the number of the most probable one."""
        means = [column.mode if _has_levels(column) else column.mean for column in self.columns]
        return torch.cat([mean.expand(*self.batch_shape, 1) for mean in means], -1)

    def expand(self, batch_shape: torch.Size, _instance: Any = None) -> Columns:
        """Return the distribution with its columns expanded."""
        columns = [column.expand(torch.Size(batch_shape)) for column in self.columns]
        return Columns(columns, self.by_column, self.observed, validate_args=self._validate_args)

    def _filled(self, value: Tensor, observed: Tensor) -> Tensor:
        """Put values that their columns accept in the place of what is not observed."""
        entries = zip(value.unbind(-1), observed.unbind(-1), self.by_column.some_values, strict=True)
        return torch.stack([torch.where(seen, x, filler) for x, seen, filler in entries], -1)


def _has_levels(column: dist.TorchDistribution) -> bool:
    return isinstance(getattr(column, "base_dist", column), Levels)
