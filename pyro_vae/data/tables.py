"""Tables whose columns are of different kinds: read from files, and encoded by a likelihood for each column."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from torch import Tensor, nn

from pyro_vae.core.checks import did_you_mean
from pyro_vae.core.registry import FILLED_IN, Registry, Spec
from pyro_vae.data.files import BadTable, one_line, read_header
from pyro_vae.models import likelihoods
from pyro_vae.models.likelihoods import Categorical, Likelihood, Mixed
from pyro_vae.models.likelihoods.schema import Column, Wanted, by_values, levels_of

if TYPE_CHECKING:
    import pandas as pd

Entry = Wanted | str | Mapping[str, Any] | None
"""What a schema says of a column: a likelihood, its class or its name; or a mapping with the keys "likelihood" or
"levels" or both, and further keys for arguments of the likelihood; or None to leave the column out."""
LIKELIHOODS = Registry(
    "likelihood",
    Likelihood,
    likelihoods,
    "likelihood p(x|z)",
    accepts=(nn.Module,),
    filled_in=FILLED_IN,
    filled_in_ours=frozenset({"columns"}),
)
"""Likelihoods by name, in a schema and in a config."""
FEW_LEVELS = 20
"""A column of strings with so many levels or fewer is never suspected to be an identifier."""


def read_schema(given: Mapping[str, Entry] | str | None) -> Mapping[str, Entry] | None:
    """Return a schema as it is given, or from the YAML file whose path is given.

    Raises:
        ValueError: if the file cannot be read, or does not hold a mapping.
    """
    if not isinstance(given, str):
        return given
    try:
        schema = yaml.safe_load(Path(given).expanduser().read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"Cannot read the schema {given}: {one_line(error)}.") from error
    if not isinstance(schema, Mapping):
        raise ValueError(f"Expected likelihoods by column name in the schema {given}; got {schema!r:.80}.")
    return schema


def read_table(path: Path, schema: Mapping[str, Entry] | None = None) -> pd.DataFrame:
    """Read a .csv file with a header line; levels that the schema has as strings are read as strings.

    Raises:
        ValueError: if the file cannot be read, has no header, or names a column twice.
    """
    import pandas as pd

    text = [name for name, entry in (schema or {}).items() if any(isinstance(v, str) for v in _levels(entry) or ())]
    try:
        names = read_header(path)
        if names is None:
            raise BadTable(f"Expected names of the columns in the first line of {path}; got numbers.")
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise BadTable(f"Expected columns of different names in {path}; got {twice!r} twice.")
        types = {i: str for i, name in enumerate(names) if name in text}
        frame = pd.read_csv(path, header=None, skiprows=1, skipinitialspace=True, low_memory=False, dtype=types)
        if frame.shape[1] != len(names):
            raise BadTable(f"Expected {len(names)} columns in {path}, as its header has; got {frame.shape[1]}.")
        return frame.set_axis(names, axis=1).apply(_whole_numbers)
    except (BadTable, MemoryError):
        raise
    except Exception as error:  # a damaged file fails in more ways than one can list
        raise ValueError(f"Expected {path} to be a readable .csv table; got {one_line(error)}.") from error


def _whole_numbers(series: pd.Series) -> pd.Series:
    """Give whole numbers, which pandas reads as real ones where a cell is empty, an integer dtype."""
    whole = series.dtype.kind == "f" and series.isna().any() and series.notna().any()
    return series.astype("Int64") if whole and (series.dropna() % 1 == 0).all() else series


def encode_table(frame: pd.DataFrame, schema: Mapping[str, Entry]) -> tuple[Mixed, Tensor]:
    """Return the likelihood of a table's columns, and the table as a tensor, NaN where missing.

    Raises:
        ValueError: for a column with only one value or of neither numbers nor levels; a name in the schema that is
            not a column, or an entry of it that names neither likelihood nor levels; a value that is not among the
            levels named; or a column of strings that looks like numbers or like an identifier.
    """
    _check_names(frame, schema)
    frame = frame.copy()
    wanted = {}
    for name, entry in schema.items():
        levels = _levels(entry)
        if levels is not None:
            frame[name] = _as_levels(name, frame[name], tuple(levels))
        if not isinstance(entry, Mapping) or "likelihood" in entry:
            wanted[name] = _likelihood(name, entry)
    for name in frame.columns:
        if name not in schema:
            _check_strings(name, frame[name])
    mixed = Mixed.from_dataframe(frame, wanted)
    return mixed, mixed.encode(frame)


def record_schema(mixed: Mixed, schema: Mapping[str, Entry]) -> dict[str, Any]:
    """Return the whole schema of a table in the form of a config file, so that other tables are coded alike.

    Args:
        mixed: what was made of the table.
        schema: what was asked for; it has the arguments of likelihoods and the columns that are left out.
    """
    left_out = {name: None for name, entry in schema.items() if entry is None}
    asked = {name: entry for name, entry in schema.items() if isinstance(entry, Mapping)}
    pairs = zip(mixed.table.columns, mixed.columns, strict=True)
    return left_out | {column.name: _record_column(column, part, asked.get(column.name, {})) for column, part in pairs}


def _record_column(column: Column, part: Any, asked: Mapping[str, Any]) -> str | dict[str, Any]:
    record = {"likelihood": LIKELIHOODS.name_of(type(part)), **_arguments(asked)}
    if column.levels is not None:
        record["levels"] = [level.item() if hasattr(level, "item") else level for level in column.levels]
    elif isinstance(part, Categorical):
        record["num_classes"] = part.num_classes
    return record if len(record) > 1 else record["likelihood"]


def has_different_kinds(path: Path) -> bool:
    """Say whether a .csv file has a header and columns that call for different likelihoods, constant ones aside."""
    try:
        if read_header(path) is None:
            return False
        frame = read_table(path)
    except (OSError, ValueError):  # loading the file says what is wrong
        return False
    columns = [levels_of(name, frame[name].infer_objects()) for name in frame]
    kinds = {by_values(levels, distinct) for levels, distinct in columns if len(distinct) > 1}
    return len(kinds) > 1 or any(levels is not None for levels, _ in columns)


def _check_names(frame: pd.DataFrame, schema: Mapping[str, Entry]) -> None:
    if not isinstance(schema, Mapping):
        raise ValueError(f"Expected the schema as likelihoods by column name, {{age: Normal}}; got {schema!r}.")
    for name in schema:
        if name not in frame.columns:
            near = did_you_mean(str(name), map(str, frame))
            raise ValueError(f"Expected the schema to name columns of the table; got {name!r}.{near}")


def _likelihood(name: str, entry: Entry) -> Wanted | None:
    """Return the likelihood that an entry means, an object where it has arguments."""
    if isinstance(entry, str):
        return LIKELIHOODS.find(entry)
    if not isinstance(entry, Mapping):
        if entry is None or isinstance(entry, type) or hasattr(entry, "num_features"):
            return entry
        raise ValueError(f"Expected a likelihood for column {name!r}; got {entry!r}.")
    arguments = _arguments(entry)
    if not arguments:
        return LIKELIHOODS.find(entry["likelihood"])
    try:
        return LIKELIHOODS.build(Spec(entry["likelihood"], {"event_shape": [1]} | arguments))
    except ValueError as error:
        raise ValueError(f"Column {name!r} of the schema: {error}") from error


def _arguments(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key not in ("likelihood", "levels")}


def _levels(entry: Entry) -> Any:
    """Return the levels that an entry names, or None; a ``ValueError`` if it has no likelihood either."""
    if not isinstance(entry, Mapping):
        return None
    levels = entry.get("levels")
    if levels is not None and (not isinstance(levels, list | tuple) or not levels):
        raise ValueError(f"Expected levels in the schema as a list, [low, high]; got {levels!r}.")
    if "likelihood" not in entry and (levels is None or _arguments(entry)):
        raise ValueError(f"Expected a likelihood or levels in each entry of the schema; got {dict(entry)}.")
    return levels


def _as_levels(name: str, series: pd.Series, levels: tuple[Any, ...]) -> Any:
    import pandas as pd

    Column(name, levels).encode(series)  # raises for values that are not among the levels
    return pd.Categorical(series.astype(object), categories=list(levels))


def _check_strings(name: str, series: pd.Series) -> None:
    """Refuse strings that are numbers for the most part, or an identifier, unless the schema names the column."""
    import pandas as pd

    seen = series.dropna()
    if isinstance(series.dtype, pd.CategoricalDtype) or not len(seen) or pd.api.types.is_numeric_dtype(seen.dtype):
        return
    if not seen.map(lambda value: isinstance(value, str)).all():
        return
    odd = pd.to_numeric(seen, errors="coerce").isna()
    if 0 < odd.sum() < len(seen) / 2:
        where = odd.idxmax()
        raise ValueError(
            f"Expected numbers in column {name!r}, as nearly all of it are; got {seen[where]!r} at row {where}. "
            "Correct it, leave the cell empty if it is missing, or name the column's likelihood in the schema."
        )
    if seen.nunique() > max(FEW_LEVELS, len(seen) / 2):
        raise ValueError(
            f"Expected levels that recur in column {name!r}; got {seen.nunique()} different ones in {len(seen)} rows, "
            f"as in an identifier. Leave it out with {name}: null in the schema, or name its likelihood there."
        )
