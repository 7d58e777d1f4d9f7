"""Tables whose columns are of different kinds: the likelihood of each, and how it is encoded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pyro_vae.core.checks import did_you_mean, needs_double
from pyro_vae.models.likelihoods.base import Likelihood
from pyro_vae.models.likelihoods.continuous import Normal
from pyro_vae.models.likelihoods.discrete import Bernoulli, Categorical, NegativeBinomial

if TYPE_CHECKING:
    import pandas as pd

Wanted = Likelihood | type[Likelihood]
Schema = Mapping[str, Wanted | None]
"""Likelihoods, or their classes, by column name; None leaves a column out."""
SHOWN = 6
"""Levels that a description names."""


@dataclass(frozen=True)
class Column:
    """How a column is encoded.

    Attributes:
        name: its name in the table.
        levels: its levels in the order of their numbers, None for a column of numbers.
        dtype: its dtype in the table.
    """

    name: str
    levels: tuple[Any, ...] | None = None
    dtype: Any = None

    def encode(self, series: pd.Series) -> Tensor:
        """Return the column as numbers, NaN for missing entries, shape (N,)."""
        import pandas as pd

        if self.levels is None:
            return _numbers(series, self.name)
        codes = pd.Index(self.levels, dtype=object).get_indexer(series.astype(object))
        unknown = series[(codes < 0) & series.notna()]
        if len(unknown):
            raise ValueError(
                f"Expected the levels {list(self.levels)} in column {self.name!r}; got {unknown.iloc[0]!r} at row "
                f"{unknown.index[0]}."
            )
        numbers = torch.tensor(codes, dtype=torch.get_default_dtype())
        return torch.where(numbers < 0, torch.nan, numbers)

    def decode(self, x: Tensor) -> Any:
        """Return the values of numbers of shape (N,)."""
        import pandas as pd

        values = _shortest(x.detach().cpu())
        if self.levels is not None:
            codes = values.round().clip(0, len(self.levels) - 1).fillna(-1).astype(int)
            levels = pd.Series(pd.Categorical.from_codes(codes, list(self.levels)))
            unfit = self.dtype is None or (levels.isna().any() and self.dtype.kind in "biu")
            return levels if unfit else levels.astype(self.dtype)
        whole = values.notna().all() and (values == values.round()).all()
        return values.astype(self.dtype) if self.dtype is not None and whole else values


@dataclass(frozen=True)
class Table:
    """The columns of a table in their order."""

    columns: tuple[Column, ...]

    @property
    def names(self) -> list[str]:
        """Names of the columns."""
        return [column.name for column in self.columns]

    def encode(self, frame: pd.DataFrame) -> Tensor:
        """Return the table as a tensor, shape (N, number of columns)."""
        for name in self.names:
            if name not in frame.columns:
                near = did_you_mean(str(name), map(str, frame))
                raise ValueError(
                    f"Expected a column {name!r} in the table.{near} Add it, empty where its values are missing."
                )
        return torch.stack([column.encode(frame[column.name]) for column in self.columns], -1)

    def decode(self, x: Tensor) -> pd.DataFrame:
        """Return a tensor of shape (N, number of columns) as a table."""
        import pandas as pd

        if x.ndim != 2 or x.shape[1] != len(self.columns):
            raise ValueError(f"Expected x of shape (N, {len(self.columns)}); got {tuple(x.shape)}.")
        return pd.DataFrame({c.name: c.decode(v) for c, v in zip(self.columns, x.unbind(-1), strict=True)})


def _shortest(x: Tensor) -> pd.Series:
    """Return numbers in double precision, the shortest decimals for single ones: 32.1, not 32.099998474."""
    import pandas as pd

    return pd.Series(x.numpy().astype(str) if x.dtype == torch.float32 else x.numpy(), dtype="float64")


def _numbers(series: pd.Series, name: str) -> Tensor:
    import pandas as pd

    try:
        if series.dtype.kind in "mMc":
            raise TypeError
        values = pd.to_numeric(series).to_numpy(dtype="float64", na_value=float("nan"))
    except (TypeError, ValueError) as error:
        raise ValueError(f"Expected numbers in column {name!r}; got dtype {series.dtype}. Convert it first.") from error
    return torch.tensor(values, dtype=torch.float64 if needs_double(values) else torch.get_default_dtype())


def table_of(frame: pd.DataFrame, schema: Schema) -> tuple[Table, list[Likelihood]]:
    """Return how a table is encoded, and the likelihood of each column.

    Raises:
        ValueError: for anything but a DataFrame whose columns differ in their names; for a column with only one value
            or of neither numbers nor levels; and for a name in the schema that is not a column.
    """
    if not hasattr(frame, "columns"):
        raise ValueError(f"Expected a pandas DataFrame; got {type(frame).__name__}.")
    if not frame.columns.is_unique:
        twice = frame.columns[frame.columns.duplicated()][0]
        raise ValueError(f"Expected columns of different names; got {twice!r} twice.")
    for name in set(schema) - set(frame.columns):
        near = did_you_mean(str(name), map(str, frame))
        raise ValueError(f"Expected the schema to name columns of the table; got {name!r}.{near}")
    kept = [name for name in frame.columns if name not in schema or schema[name] is not None]
    columns, parts = [], []
    for name in kept:
        levels, part = _choose(name, frame[name].infer_objects(), schema.get(name))
        columns.append(Column(name, levels, frame[name].dtype))
        parts.append(part)
    return Table(tuple(columns)), parts


def _choose(name: str, series: pd.Series, wanted: Wanted | None) -> tuple[tuple[Any, ...] | None, Likelihood]:
    """Return a column's levels, None for numbers, and its likelihood."""
    levels, distinct = levels_of(name, series)
    if wanted is None:
        if len(distinct) < 2:
            raise ValueError(
                f"Expected at least two different values in column {name!r}; got {len(distinct)}. Leave it out, "
                f"{{{name!r}: None}} in the schema ({name}: null on the command line), or name its likelihood there."
            )
        wanted = by_values(levels, distinct)
    part = _build(name, wanted, len(distinct)) if isinstance(wanted, type) else wanted
    _check_numbers(name, series, part)
    numbered = levels is not None or not isinstance(part, Bernoulli | Categorical) or _accepts(part, distinct)
    return (levels if numbered else distinct), part


def _check_numbers(name: str, series: pd.Series, part: Likelihood) -> None:
    """Refuse text for a likelihood of numbers, which would score where the strings are in the alphabet."""
    import pandas as pd

    text = pd.api.types.is_string_dtype(series.dtype) or series.dtype.kind == "O"
    if isinstance(part, Bernoulli | Categorical) or isinstance(series.dtype, pd.CategoricalDtype) or not text:
        return
    odd = series.notna() & pd.to_numeric(series, errors="coerce").isna()
    where = odd.idxmax() if odd.any() else series.first_valid_index()
    raise ValueError(
        f"Expected numbers in column {name!r} for {type(part).__name__}; got {series.get(where)!r} at row {where}. "
        "Correct it, leave the cell empty if it is missing, choose Categorical, or name the levels in their order in "
        "the schema."
    )


def levels_of(name: str, series: pd.Series) -> tuple[tuple[Any, ...] | None, tuple[Any, ...]]:
    """Return a column's levels, None for numbers, and its different values.

    Raises:
        ValueError: for a column of neither numbers nor levels.
    """
    levels = _declared_levels(name, series)
    return levels, _in_order(series.dropna().unique()) if levels is None else levels


def _declared_levels(name: str, series: pd.Series) -> tuple[Any, ...] | None:
    """Return the levels of a column that does not hold numbers, None of one that does."""
    import pandas as pd

    if isinstance(series.dtype, pd.CategoricalDtype):
        return tuple(series.dtype.categories)
    if series.dtype.kind == "b":
        return (False, True)
    if series.dtype.kind in "iuf":
        return None
    if pd.api.types.is_string_dtype(series.dtype) or series.dtype.kind == "O":
        return _in_order(series.dropna().unique())
    raise ValueError(
        f"Expected numbers, strings, categories or bool in column {name!r}; got dtype {series.dtype}. Convert it first."
    )


def _in_order(values: Any) -> tuple[Any, ...]:
    """Return values sorted, by their names where they cannot be compared."""
    try:
        return tuple(sorted(values))
    except TypeError:
        return tuple(sorted(values, key=str))


def by_values(levels: tuple[Any, ...] | None, distinct: tuple[Any, ...]) -> type[Likelihood]:
    """Return the class of likelihood that a column's values call for."""
    if len(distinct) == 2:
        return Bernoulli
    if levels is not None:
        return Categorical
    return NegativeBinomial if all(v >= 0 and v == round(v) for v in distinct) else Normal


def _build(name: str, part: type[Likelihood], num_classes: int) -> Likelihood:
    if issubclass(part, Categorical):
        return part(1, num_classes=num_classes)
    try:
        return part((1,))
    except TypeError as error:
        raise ValueError(
            f"Cannot build {part.__name__} for column {name!r}: {error}. Give its arguments in the schema, "
            f"{{{name}: {{likelihood: {part.__name__}, argument: value}}}}, or in Python an object of event shape (1,)."
        ) from error


def _accepts(part: Likelihood, values: tuple[Any, ...]) -> bool:
    """Say whether a likelihood of levels accepts the values as they are, as numbers of levels."""
    return bool(part.support.check(torch.tensor(values, dtype=torch.float64)).all())


def describe_column(part: Any, levels: tuple[Any, ...] | None) -> str:
    """Return a column's likelihood and levels in a few words, such as "Bernoulli (f, m)"."""
    name = type(part).__name__
    if levels is None:
        return f"{name} ({part.num_classes} levels)" if isinstance(part, Categorical) else name
    shown = [str(level) for level in levels[:SHOWN]] + ["..."] * (len(levels) > SHOWN)
    number = f"{len(levels)} levels: " if len(levels) > 2 else ""
    return f"{name} ({number}{', '.join(shown)})"
