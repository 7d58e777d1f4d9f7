"""Readers of data files: arrays in .npy, .npz and .csv, the digits of .amat, and torchvision's IDX files."""

from __future__ import annotations

import contextlib
import hashlib
import io
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pyro_vae._checks import check_tensor
from pyro_vae._files import atomic_path

Bytes = npt.NDArray[np.uint8]

_AMAT_WIDTH = 784
# A row of .amat is 784 pairs of bytes, a digit and a space, the last one a digit and a newline. Read as
# little-endian words, "0 " and "1 " differ in the lowest bit alone.
_PAIR, _LAST_PAIR = 0x2031, 0x0A31

_IDX_FILES = tuple(f"{part}-{what}-ubyte" for part in ("train", "t10k") for what in ("images-idx3", "labels-idx1"))


def cache_dir() -> Path:
    """The user's cache directory for this library; it need not exist."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("pyro-vae"))


def one_line(error: BaseException) -> str:
    """Name an error in one line of at most 200 characters."""
    words = " ".join(str(error).split())
    return f"{type(error).__name__}: {words}".rstrip(": ")[:200]


def to_tensor(value: object, called: str) -> Tensor:
    """Copy an array or tensor of numbers to a float32 tensor on the CPU.

    Args:
        value: shape (N, *event).
        called: what messages call it.

    Raises:
        ValueError: if it is no array, empty, or holds anything but finite numbers.
    """
    if isinstance(value, Tensor):
        if value.layout is not torch.strided:
            raise ValueError(f"Expected {called} to be dense; got {value.layout}. Convert it: {called}.to_dense().")
        value = value.detach().cpu()
        value = (value.float() if value.is_floating_point() else value).numpy()
    if not isinstance(value, np.ndarray):
        raise ValueError(
            f"Expected {called} to be a name, a path, an array, a tensor or a mapping of them; got "
            f"{type(value).__name__}. Convert it: numpy.asarray({called})."
        )
    if value.dtype.kind not in "biuf":
        raise ValueError(f"Expected {called} of real numbers; got dtype {value.dtype}. Convert or encode it.")
    with np.errstate(over="ignore"):
        array = np.array(value, dtype=np.float32, order="C", subok=True)
    x = torch.from_numpy(np.ma.filled(array, np.nan))  # a masked entry is a missing one
    check_tensor(x, called)
    if x.numel() == 0:
        raise ValueError(f"Expected {called} with values in each datum; got shape {tuple(x.shape)}.")
    return x


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
    except _BadTable:
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


class _BadTable(ValueError):
    """A readable .csv file that is no table of numbers; the message is for the user."""


def _read_csv(path: Path) -> npt.NDArray[Any]:
    import pandas as pd

    first = pd.read_csv(path, header=None, nrows=1, dtype=str).iloc[0].fillna("").tolist()
    header = _is_header(path, first)
    frame = pd.read_csv(path, header=None, skiprows=int(header), low_memory=False)
    names = first if header else list(range(len(first)))
    if len(names) != frame.shape[1]:
        raise ValueError(f"a header of {len(names)} names over {frame.shape[1]} columns")
    for name, (_, column) in zip(names, frame.items(), strict=True):
        if not pd.api.types.is_numeric_dtype(column.dtype):
            raise _BadTable(f"Expected numbers in {path}; got other values in column {name!r}. Drop or encode it.")
    return np.asarray(frame.to_numpy())


def _is_header(path: Path, fields: list[str]) -> bool:
    names = [field for field in fields if field]
    if len(names) > 1 and names == [str(i) for i in range(len(names))]:
        raise _BadTable(
            f"Expected names or data in the first line of {path}; got 0, 1, ..., which is either. "
            "Write the file with names, or with pandas' header=False, index=False."
        )
    try:
        [float(name) for name in names]
    except ValueError:
        _check_names(path, fields)
        return True
    return False


def _check_names(path: Path, names: list[str]) -> None:
    if "" in names:
        raise _BadTable(
            f"Expected a name for each column of {path}; got a column without one, probably row numbers. "
            "Write the file with index=False, or name the column."
        )


def read_amat(path: Path, rows: int) -> npt.NDArray[np.bool_]:
    """Read `rows` lines of 784 digits 0 or 1; parsed once, then kept as packed bits in the user's cache.

    Args:
        path: the text file, digits separated by single spaces.
        rows: how many lines it must have.

    Returns:
        array of shape (rows, 784).

    Raises:
        ValueError: if the file is anything else, truncated files included.
    """
    cache = _cache_file(path)
    packed = _read_cache(cache, rows)
    if packed is None:
        bits = _parse_amat(path, rows)
        _write_cache(cache, np.packbits(bits, axis=1))
        return bits
    return np.unpackbits(packed, axis=1).view(np.bool_)


def _parse_amat(path: Path, rows: int) -> npt.NDArray[np.bool_]:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ValueError(f"Expected {path} to be readable; got {one_line(error)}. Copy the file again.") from error
    size = rows * _AMAT_WIDTH * 2
    if len(raw) != size:
        raise ValueError(
            f"Expected {path} to hold {rows:,} lines of {_AMAT_WIDTH} digits separated by single spaces, "
            f"{size:,} bytes; got {len(raw):,} bytes. Copy the file again."
        )
    pairs = np.frombuffer(raw, dtype="<u2").reshape(rows, _AMAT_WIDTH)
    expected = np.full(_AMAT_WIDTH, _PAIR, dtype=np.uint16)
    expected[-1] = _LAST_PAIR
    wrong = (pairs | 1) != expected
    if wrong.any():
        _refuse_pair(path, raw, int(wrong.argmax()))
    return (pairs & 1).astype(np.bool_)


def _refuse_pair(path: Path, raw: bytes, index: int) -> None:
    row, column = divmod(index, _AMAT_WIDTH)
    got = raw[2 * index : 2 * index + 2].decode("latin-1")
    after = "a newline" if column == _AMAT_WIDTH - 1 else "a space"
    raise ValueError(
        f"Expected a digit 0 or 1 and {after} in {path}; got {got!r} in line {row + 1}, column {column + 1}. "
        "Copy the file again."
    )


def _cache_file(path: Path) -> Path:
    path = path.resolve()
    stat = path.stat()
    key = hashlib.sha256(f"{path}\n{stat.st_size}\n{stat.st_mtime_ns}".encode("utf-8", "surrogateescape"))
    return cache_dir() / f"{path.stem}-{key.hexdigest()[:16]}.npy"


def _checksum(packed: Bytes) -> Bytes:
    return np.frombuffer(zlib.crc32(packed.tobytes()).to_bytes(4, "little"), dtype=np.uint8)


def _read_cache(cache: Path, rows: int) -> Bytes | None:
    try:
        stored = np.load(cache, allow_pickle=False)
        packed = stored[:-4].reshape(rows, _AMAT_WIDTH // 8)
        return packed if np.array_equal(stored[-4:], _checksum(packed)) else None
    except Exception:  # absent, unreadable or damaged: the text is parsed again
        return None


def _write_cache(cache: Path, packed: Bytes) -> None:
    # a cache that cannot be written costs time, no more
    with contextlib.suppress(OSError, ValueError):
        cache.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(cache) as temporary, temporary.open("wb") as file:
            np.save(file, np.concatenate([packed.ravel(), _checksum(packed)]))


def read_idx(kind: str, root: Path) -> list[tuple[Tensor, Tensor]]:
    """Read images and labels of torchvision's `kind` (MNIST, ...), the train file and then the test file.

    Args:
        kind: a class of ``torchvision.datasets``.
        root: the folder that holds ``<kind>/raw``; missing files are downloaded into it.

    Raises:
        ValueError: if the files are neither there nor to be had, or damaged.
    """
    import torchvision.datasets

    folder = root / kind / "raw"
    present = all((folder / name).is_file() for name in _IDX_FILES)
    try:
        # torchvision prints a progress bar for each file
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            sets = [
                getattr(torchvision.datasets, kind)(str(root), train=train, download=not present)
                for train in (True, False)
            ]
    except Exception as error:
        got = one_line(error) if present else f"no such files, and no download ({one_line(error)})"
        raise ValueError(
            f"Expected readable files {', '.join(_IDX_FILES)} in {folder}; got {got}. "
            f"Put the four files there, or pass root=, the folder that holds {kind}/raw."
        ) from error
    return [(part.data, part.targets) for part in sets]
