"""The command impute: what is missing of a file, drawn from a trained run and written beside what is there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from jsonargparse import ArgumentParser, Namespace
from torch import Tensor

from pyro_vae.cli.options import Choices, add_data_root, make_parser
from pyro_vae.core.checks import check_positive_int, check_seed
from pyro_vae.core.files import atomic_path
from pyro_vae.data.files import read_arrays, read_header
from pyro_vae.data.splits import to_tensor
from pyro_vae.data.tables import read_table
from pyro_vae.inference.scoring.posterior import impute
from pyro_vae.models.likelihoods import Mixed
from pyro_vae.runs.run import Run
from pyro_vae.runs.setup import data_path

if TYPE_CHECKING:
    import pandas as pd

DRAW = "draw"
"""Name of the column that numbers the draws."""


def make(choices: Choices) -> ArgumentParser:
    """Return the parser of the command."""
    parser = make_parser(
        "Draw what is missing of a data file from p(x_mis | x_obs) of a trained run, several times. Tables are written "
        "one below the other, with the number of the draw in their first column."
    )
    parser.add_argument("run", type=str, help="run directory, of a run with missing entries")
    parser.add_argument("--data", type=str | None, default=None, help=".csv or .npy file; the run's own if absent")
    parser.add_argument("--out", type=str | None, default=None, help="file to write; RUN/imputed.csv or .npy if absent")
    parser.add_argument("--num-draws", type=int, default=5, help="draws of each missing entry M")
    parser.add_argument("--num-particles", type=int, default=1000, help="importance samples per datum K")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draws")
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda, ...")
    add_data_root(parser)
    return parser


def run(options: Namespace) -> None:
    """Draw the missing entries of a file from p(x_mis | x_obs) of a run, and write the completed data.

    Raises:
        ValueError: if the run was trained without missing entries, or the file is complete or not of the run's kind.
    """
    check_positive_int(options.num_draws, "num_draws")
    check_positive_int(options.num_particles, "num_particles")
    check_seed(options.seed)
    directory = Run(options.run)
    trained = directory.load(options.data_root)
    config, splits, model = trained.config, trained.splits, cast("Any", trained.model)
    if not model.missing:
        raise ValueError(f"{directory.path} was trained without missing entries. Train with --missing true to impute.")
    if trained.kind.y(splits, "train") is not None:
        raise ValueError(f"Expected a run of a model of x alone to impute; {directory.path} is one of x given a label.")
    source = Path(options.data).expanduser() if options.data else data_path(config.data, options.data_root)
    out = _out_path(options.out, directory.path, source)
    contents = _read(source, splits.table, config.data.schema)
    x = _encode(contents, splits.table, source)
    model.check_data(x, name=str(source))
    num_missing = int(x.isnan().sum())
    if not num_missing:
        raise ValueError(f"Expected missing entries in {source} to impute; there are none.")
    settings = {name: options[name] for name in ("num_draws", "num_particles", "seed", "device")}
    drawn = impute(model, trained.guide, x, **settings)
    _write(out, contents, x.isnan(), drawn, splits.table)
    print(f"{out}: {options.num_draws} draws of {num_missing:,} missing entries of {len(x):,} data")


def _out_path(given: str | None, run: Path, source: Path) -> Path:
    suffix = source.suffix.lower()
    if suffix not in (".csv", ".npy"):
        raise ValueError(f"Expected a .csv or .npy file to impute; got {source}. Name one with --data.")
    out = Path(given) if given else run / f"imputed{suffix}"
    out = out if out.suffix else out.with_suffix(suffix)
    if out.suffix.lower() != suffix:
        raise ValueError(f"Expected --out to be a {suffix} file, as {source} is; got {out}.")
    if out.exists() and source.exists() and out.samefile(source):
        raise ValueError(f"Expected --out to be another file than the data; got {out}.")
    return out


def _read(source: Path, table: Mixed | None, schema: Any) -> pd.DataFrame | np.ndarray:
    """Return a file's table, or its array; a table without a header has columns named 0, 1, ..."""
    import pandas as pd

    if not source.is_file():
        raise ValueError(f"Expected a file at {source}; there is none. Check the spelling and the folder.")
    if table is not None:
        return read_table(source, schema)
    array = read_arrays(source)
    if source.suffix.lower() != ".csv":
        return array
    return pd.DataFrame(array, columns=read_header(source))


def _encode(contents: Any, table: Mixed | None, source: Path) -> Tensor:
    if table is not None:
        return table.encode(contents)
    return to_tensor(np.asarray(contents), str(source), missing=True).flatten(1)


def _write(out: Path, contents: Any, missing: Tensor, drawn: Tensor, table: Mixed | None) -> None:
    with atomic_path(out) as temporary, open(temporary, "wb") as file:
        if isinstance(contents, np.ndarray):
            np.save(file, drawn.numpy().reshape(len(drawn), *contents.shape))
            return
        named = isinstance(contents.columns[0], str)
        for number, draw in enumerate(drawn, 1):
            completed = complete(contents, missing, draw, table)
            completed.insert(0, _free_name(DRAW, completed), number)
            completed.to_csv(file, index=False, header=named and number == 1)


def complete(frame: pd.DataFrame, missing: Tensor, draw: Tensor, table: Mixed | None = None) -> pd.DataFrame:
    """Return a table with one draw in its empty cells, whole numbers as such, and all that was there as it was.

    Args:
        frame: the table, N rows.
        missing: where an entry is missing, shape (N, columns of the model).
        draw: completed data, of the same shape.
        table: the likelihood that encoded it, whose columns they are; all columns if absent.
    """
    import pandas as pd

    names = list(frame.columns) if table is None else table.table.names
    decoded = pd.DataFrame(draw.numpy(), columns=names) if table is None else table.decode(draw)
    filled = frame.copy()
    for name, gone in zip(names, missing.numpy().T, strict=True):
        if gone.any():
            values = pd.Series(np.where(gone, decoded[name].astype(object), frame[name].astype(object)))
            filled[name] = _whole(values.infer_objects()).to_numpy()
    return filled


def _whole(values: pd.Series) -> pd.Series:
    is_whole = values.dtype.kind == "f" and values.notna().all() and (values == values.round()).all()
    return values.astype("int64") if is_whole else values


def _free_name(name: str, frame: pd.DataFrame) -> str:
    while name in frame.columns:
        name = f"_{name}"
    return name
