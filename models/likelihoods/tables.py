"""Tables of mixed columns as tensors and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pyro_vae.core.checks import did_you_mean

if TYPE_CHECKING:
    import pandas as pd


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
    return torch.tensor(values, dtype=torch.get_default_dtype())
