"""The likelihood of a table whose columns differ in their types."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pyro_vae.core.checks import check_support, entrywise
from pyro_vae.core.distributions import as_pyro
from pyro_vae.models.distributions.columns import ByColumn, Columns, ColumnSupport, fill_missing
from pyro_vae.models.likelihoods.base import Likelihood
from pyro_vae.models.likelihoods.schema import Column, Schema, Table, describe_column, table_of

if TYPE_CHECKING:
    import pandas as pd


class Mixed(Likelihood):
    """Independent columns, each with a likelihood of its own, p(x|z) = prod_j p_j(x_j|z).

        Mixed({"age": Normal(1), "smoker": Bernoulli(1), "visits": Poisson(1), "city": Categorical(1, num_classes=5)})
        Mixed.from_dataframe(df, schema={"income": LogNormal})

    Data are a floating-point tensor, shape (N, number of columns); ``encode`` makes it of a DataFrame, with NaN for
    what is missing, and ``decode`` makes a DataFrame of it; ``describe`` names the likelihood of each column. The
    distribution scores entry by entry, ``entry_log_prob(x)``, and leaves out what is missing,
    ``masked(observed).log_prob(x)``; its mean is that of each column, of a Categorical one the number of the most
    probable level.

    The decoder's features are split between the columns in their order, after the affine map h -> a + b h with
    fixed a = 0 and b = 1, or with what ``start_at`` found in the data.

    On the command line: ``pyro-vae train --data table.csv --schema '{income: LogNormal}'``.

    Args:
        columns: likelihood of each column by its name, each of event shape (1,).

    Raises:
        ValueError: if there is no column, or a column's likelihood is of another event shape.
    """

    support: ByColumn
    feature_loc: Tensor
    feature_scale: Tensor

    def __init__(self, columns: Mapping[str, Likelihood]) -> None:
        super().__init__(_number_of(columns))
        self.table = Table(tuple(Column(name) for name in columns))
        self.columns = nn.ModuleList(columns.values())
        self.widths = [part.num_features for part in columns.values()]
        self.support = ByColumn([_support_of(name, part) for name, part in columns.items()])
        self.register_buffer("feature_loc", torch.zeros(self.num_features))
        self.register_buffer("feature_scale", torch.ones(self.num_features))

    @classmethod
    def from_dataframe(cls, frame: pd.DataFrame, schema: Schema | None = None) -> Mixed:
        """Choose a likelihood for each column from its dtype and values.

            two different values, or bool       Bernoulli
            strings and categories              Categorical, with their number of levels
            whole numbers >= 0                  NegativeBinomial
            other numbers                       Normal with one learnt scale

        At h = 0 each column then has about the location, and where it is learnt the scale, that it has in the
        data, so that the units of a column make no difference to training. The density is that of x itself.

        Args:
            frame: the table, N rows; missing entries do not count.
            schema: {column name: likelihood} for columns that are to have another one: an object such as
                ``LogNormal(1)``, or its class; None leaves the column out.

        Returns:
            the likelihood, which also encodes and decodes such tables.

        Raises:
            ValueError: for a column that has only one value or that is neither numbers nor levels, and for a name in
                the schema that is not a column.
        """
        table, parts = table_of(frame, schema or {})
        mixed = cls(dict(zip(table.names, parts, strict=True)))
        mixed.table = table
        x = mixed.encode(frame)
        check_support(fill_missing(x, mixed.support), mixed.support, "Mixed", "the table")
        mixed.start_at(x)
        return mixed

    @torch.no_grad()
    def start_at(self, x: Tensor) -> None:
        """Put h = 0 at the location of each column, and learnt scales at its own.

        Args:
            x: data, shape (N, number of columns), NaN where missing.

        Raises:
            ValueError: if a column has no observed entry.
        """
        starts = []
        parts: Any = self.columns
        for name, part, column in zip(self.table.names, parts, x.unbind(-1), strict=True):
            seen = column[~column.isnan()]
            if not len(seen):
                raise ValueError(f"Expected observed entries in column {name!r} to start at; got none. Leave it out.")
            starts.append(_start(part, seen))
        for ours, found in zip((self.feature_loc, self.feature_scale), zip(*starts, strict=True), strict=True):
            ours.copy_(torch.cat(found))

    def without(self, name: str) -> Mixed:
        """Return the likelihood of the other columns, with parameters of its own.

        Raises:
            ValueError: if there is no column of that name, or no other.
        """
        if name not in self.table.names or len(self.table.names) == 1:
            raise ValueError(f"Expected one of several columns to leave out; got {name!r} of {self.table.names}.")
        keep = [i for i, column in enumerate(self.table.columns) if column.name != name]
        mixed = Mixed({self.table.columns[i].name: copy.deepcopy(self.columns[i]) for i in keep})  # type: ignore[misc]
        mixed.table = Table(tuple(self.table.columns[i] for i in keep))
        for ours, found in zip(mixed.buffers(recurse=False), self.buffers(recurse=False), strict=True):
            ours.copy_(torch.cat([found.split(self.widths)[i] for i in keep]))
        return mixed

    def describe(self) -> str:
        """Return name, likelihood and levels of each column, one line each."""
        width = max(len(str(name)) for name in self.table.names)
        pairs = zip(self.table.columns, self.columns, strict=True)
        return "\n".join(f"{column.name!s:<{width}}  {describe_column(part, column.levels)}" for column, part in pairs)

    @property
    def num_features(self) -> int:
        """Width of the decoder's output: that of all columns together."""
        return sum(self.widths)

    def forward(self, h: Tensor) -> Columns:
        """Return p(x|z) for h of shape (..., num_features): batch shape (...), event shape (number of columns,)."""
        blocks = (self.feature_loc + self.feature_scale * h).split(self.widths, -1)
        columns = [as_pyro(part(block)) for part, block in zip(self.columns, blocks, strict=True)]
        return Columns(columns, self.support)

    def encode(self, frame: pd.DataFrame) -> Tensor:
        """Return a table as a tensor of the default dtype, shape (N, number of columns).

        Levels become their numbers and missing entries NaN. Columns that the likelihood does not have are left out.

        Raises:
            ValueError: if a column is absent, holds a level that was not known, or is not numeric.
        """
        return self.table.encode(frame)

    def decode(self, x: Tensor) -> pd.DataFrame:
        """Return a tensor of shape (N, number of columns) as a table with levels, dtypes and missing entries.

        Numbers of levels are rounded to the nearest; integers that are not whole, as in means, stay real.
        """
        return self.table.decode(x)


def _number_of(columns: Mapping[str, Likelihood]) -> int:
    if not isinstance(columns, Mapping) or not columns:
        raise ValueError('Expected columns as a dict of likelihoods by name, {"age": Normal(1), ...}, at least one.')
    return len(columns)


def _start(part: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return loc and scale of the features that the part starts at: 0 and 1 where it is not a ``Likelihood``."""
    if isinstance(part, Likelihood):
        return part.start_at_column(x)
    return torch.zeros(part.num_features), torch.ones(part.num_features)


def _support_of(name: str, part: Likelihood) -> ColumnSupport:
    with torch.no_grad():
        p = as_pyro(part(torch.zeros(part.num_features)))
    if p.event_shape != (1,):
        raise ValueError(
            f"Expected a likelihood of event shape (1,) for column {name!r}; got {tuple(p.event_shape)}: "
            f"{type(part).__name__}(1, ...)."
        )
    support = entrywise(getattr(part, "support", p.support))
    return ColumnSupport(support, f"{type(part).__name__} column {name!r}", getattr(part, "hint", ""))
