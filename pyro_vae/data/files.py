"""Readers of data files: arrays in .npy, .npz and .csv, and torchvision's IDX files."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

_IDX_FILES = tuple(f"{split}-{what}-ubyte" for split in ("train", "t10k") for what in ("images-idx3", "labels-idx1"))


class BadTable(ValueError):
    """A readable .csv file that is no table of numbers; the message is for the user."""


def cache_dir() -> Path:
    """The user's cache directory for this library; it need not exist."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("pyro-vae"))


def one_line(error: BaseException) -> str:
    """Name an error in one line of at most 200 characters."""
    words = " ".join(str(error).split())
    return f"{type(error).__name__}: {words}".rstrip(": ")[:200]


def read_arrays(path: Path) -> Any:
    """Read one array, or a dict of arrays by name, from a .npy, .npz or .csv file.

    Args:
        path: the file. A .csv holds numbers only, with a header line or without.

    Raises:
        ValueError: if the suffix is another one, or the file cannot be read.
    """
    suffix = path.suffix.lower()
    if suffix not in (".npy", ".npz", ".csv"):
        raise ValueError(f"Expected a .npy, .npz or .csv file; got {path}. Save the array with numpy.save first.")
    try:
        return _read_csv(path) if suffix == ".csv" else _read_numpy(path)
    except BadTable:
        raise
    except Exception as error:  # a damaged file fails in more ways than one can list
        raise ValueError(
            f"Expected {path} to be a readable {suffix} file of numbers; got {one_line(error)}. Write the file again."
        ) from error


def _read_numpy(path: Path) -> Any:
    with path.open("rb") as file:  # numpy.load(path) leaves a damaged .npz open
        loaded = np.load(file, allow_pickle=False)
        if isinstance(loaded, np.lib.npyio.NpzFile):
            return {name: loaded[name] for name in loaded.files}
        return loaded


def _read_csv(path: Path) -> np.ndarray:
    import pandas as pd

    header = read_header(path)
    frame = pd.read_csv(path, header=None, skiprows=int(header is not None), low_memory=False)
    names = range(frame.shape[1]) if header is None else header
    if len(names) != frame.shape[1]:
        raise ValueError(f"a header of {len(names)} names over {frame.shape[1]} columns")
    for name, dtype in zip(names, frame.dtypes, strict=True):
        if not pd.api.types.is_numeric_dtype(dtype):
            raise BadTable(
                f"Expected numbers in {path}; got other values in column {name!r}. Drop or encode it, or "
                "give each column a likelihood of its own: --likelihood Mixed, in Python load_data(..., schema={})."
            )
    return np.asarray(frame.to_numpy())


def read_header(path: Path) -> list[str] | None:
    """Return the names in the first line of a .csv file, None where that line holds data.

    It holds data if every field that is not empty is a number, as Python reads it: ``1e-3,2e5`` are data, and
    ``price,2020`` are names.

    Raises:
        ValueError: if the line is 0, 1, ..., which may be data or the column numbers that pandas writes, or if a
            column has no name.
    """
    fields = _first_line(path)
    given = [field for field in fields if field]
    if len(given) > 1 and given == [str(i) for i in range(len(given))]:
        raise BadTable(
            f"Expected names or data in the first line of {path}; got 0, 1, ..., which is either. "
            "Write the file with names, or with pandas' header=False, index=False."
        )
    if all(map(_is_number, given)):
        return None
    if "" in fields:
        raise BadTable(
            f"Expected a name for each column of {path}; got a column without one, probably row numbers. "
            "Write the file with index=False, or name the column."
        )
    return fields


def _first_line(path: Path) -> list[str]:
    """Return the fields of a .csv file's first line, "" where one is empty."""
    import pandas as pd

    first = pd.read_csv(path, header=None, nrows=1, dtype=str, skipinitialspace=True)
    return list(first.iloc[0].fillna("").str.strip())


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def read_idx(kind: str, root: Path) -> list[tuple[Tensor, Tensor]]:
    """Read images and labels of torchvision's `kind` (MNIST, ...), the train file and then the test file.

    Args:
        kind: a class of ``torchvision.datasets``.
        root: the folder that holds ``<kind>/raw``; missing files are downloaded into it.

    Raises:
        ValueError: if the files are absent and cannot be downloaded, or are damaged.
    """
    import torchvision.datasets

    folder = root / kind / "raw"
    present = all((folder / name).is_file() for name in _IDX_FILES)
    load = getattr(torchvision.datasets, kind)
    try:
        # torchvision prints a progress bar for each file
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            sets = [load(str(root), train=train, download=not present) for train in (True, False)]
    except Exception as error:
        got = one_line(error) if present else f"no such files, and no download ({one_line(error)})"
        raise ValueError(
            f"Expected readable files {', '.join(_IDX_FILES)} in {folder}; got {got}. "
            f"Put the four files there, or pass root=, the folder that holds {kind}/raw."
        ) from error
    return [(split.data, split.targets) for split in sets]
