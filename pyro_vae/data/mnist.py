"""Binary MNIST as text: .amat files, parsed once and then read from a cache of packed bits."""

from __future__ import annotations

import contextlib
import hashlib
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pyro_vae.core.files import atomic_path
from pyro_vae.data.files import cache_dir, one_line

Bytes = npt.NDArray[np.uint8]

ROWS = {"train": 50_000, "valid": 10_000, "test": 10_000}
WIDTH = 784
# A row is 784 pairs of bytes, a digit and a space, the last one a digit and a newline. Read as
# little-endian words, "0 " and "1 " differ in the lowest bit alone.
_PAIR, _LAST_PAIR = 0x2031, 0x0A31


def read_binarized_mnist(root: Path) -> list[Tensor]:
    """Read train, valid and test of Larochelle and Murray (2011), in file order.

    Args:
        root: the folder that holds the three files, or holds ``binarized_mnist`` with them.

    Returns:
        three tensors, float32, shape (N, 784).

    Raises:
        ValueError: if a file is absent or damaged.
    """
    files = {split: f"binarized_mnist_{split}.amat" for split in ROWS}
    folder = root / "binarized_mnist" if (root / "binarized_mnist").is_dir() else root
    missing = [name for name in files.values() if not (folder / name).is_file()]
    if missing:
        raise ValueError(
            f"Expected {', '.join(files.values())} (Larochelle and Murray 2011, static binarisation) in "
            f"{root / 'binarized_mnist'} or {root}; got no {', '.join(missing)}. They are not downloaded: "
            "put them there, or pass root=, the folder that holds them."
        )
    return [torch.from_numpy(read_amat(folder / files[split], rows)).float() for split, rows in ROWS.items()]


def read_amat(path: Path, rows: int) -> npt.NDArray[np.bool_]:
    """Read `rows` lines of 784 digits 0 or 1; parsed once, then kept in the user's cache.

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
        bits = _parse(path, rows)
        _write_cache(cache, np.packbits(bits, axis=1))
        return bits
    return np.unpackbits(packed, axis=1).view(np.bool_)


def _parse(path: Path, rows: int) -> npt.NDArray[np.bool_]:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ValueError(f"Expected {path} to be readable; got {one_line(error)}. Copy the file again.") from error
    size = rows * WIDTH * 2
    if len(raw) != size:
        raise ValueError(
            f"Expected {path} to hold {rows:,} lines of {WIDTH} digits separated by single spaces, "
            f"{size:,} bytes; got {len(raw):,} bytes. Copy the file again."
        )
    pairs = np.frombuffer(raw, dtype="<u2").reshape(rows, WIDTH)
    expected = np.full(WIDTH, _PAIR, dtype=np.uint16)
    expected[-1] = _LAST_PAIR
    wrong = (pairs | 1) != expected
    if wrong.any():
        _refuse_pair(path, raw, int(wrong.argmax()))
    return (pairs & 1).astype(np.bool_)


def _refuse_pair(path: Path, raw: bytes, index: int) -> None:
    row, column = divmod(index, WIDTH)
    got = raw[2 * index : 2 * index + 2].decode("latin-1")
    after = "a newline" if column == WIDTH - 1 else "a space"
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
        packed = stored[:-4].reshape(rows, WIDTH // 8)
        return packed if np.array_equal(stored[-4:], _checksum(packed)) else None
    except Exception:  # absent, unreadable or damaged: the text is parsed again
        return None


def _write_cache(cache: Path, packed: Bytes) -> None:
    # a cache that cannot be written costs time, no more
    with contextlib.suppress(OSError, ValueError):
        cache.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(cache) as temporary, temporary.open("wb") as file:
            np.save(file, np.concatenate([packed.ravel(), _checksum(packed)]))
