"""Data sets by name, from files and from arrays, each with the protocol that belongs to its results."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from pyro_vae.core.checks import check_seed, did_you_mean
from pyro_vae.data.binarisation import Binarisation, binarized, check_values, numbered
from pyro_vae.data.files import cache_dir, read_arrays, read_header, read_idx
from pyro_vae.data.mnist import read_binarized_mnist
from pyro_vae.data.splits import SPLIT_NAMES, Splits, share_missing, sizes, split_arrays
from pyro_vae.data.tables import Entry, encode_table, read_table

if TYPE_CHECKING:
    import pandas as pd

_IDX_KINDS = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "kmnist": "KMNIST"}
_IDX_VALID = 10_000
NAMES = ("digits", *_IDX_KINDS, "binarized_mnist")
"""Names of the data sets."""
Source: TypeAlias = "str | os.PathLike[str] | np.ndarray | Tensor | Mapping[str, Any] | pd.DataFrame"
"""What ``load_data`` takes: a name, a path, an array, arrays by name, or a table."""


def load_data(
    source: Source,
    *,
    root: str | os.PathLike[str] | None = None,
    binarize: Binarisation | None = None,
    levels: int | None = None,
    schema: Mapping[str, Entry] | None = None,
    missing: bool = False,
    seed: int = 0,
) -> Splits:
    """Load a data set, split it, and make it binary or number its levels if asked to.

    Args:
        source: "digits" (scikit-learn's, counts 0 to 16), "mnist", "fashion_mnist", "kmnist" (grey levels in
            [0, 1]) or "binarized_mnist" (static, Larochelle and Murray 2011); a .npy, .npz or .csv file; an
            array or tensor (N, *event), split 80/10/10 at random; or a mapping, as in .npz, of one such array,
            of train, valid and test, or of train and test, where a random tenth of train becomes valid.
            Events are flattened; those of shape (H, W) or (C, H, W), channels first, count as pictures. A
            DataFrame, or a .csv file with ``schema``, is a table whose columns may be of different kinds.
        root: folder of the named data sets; None is the user's cache directory.
        binarize: for grey levels in [0, 1] (digits are divided by 16): "static" draws each datum once;
            "dynamic" leaves train grey, to be drawn at every use by `Splits.transform`, and draws valid and
            test once, to the same data as "static"; "threshold" is x >= 0.5.
        levels: for 8-bit grey levels x = b / 255 in [0, 1]: their numbers floor(levels b / 256), the bytes b for
            256, as ``Categorical``, ``DiscretizedLogistic`` and its mixture score them; log p(x) is then the log
            probability mass of an image, and not a density.
        schema: for a table, {column name: likelihood}: an object, its class or its class's name ("LogNormal"), or a
            mapping, {"likelihood": "StudentT", "df": 5} or {"levels": ["low", "high"]}; None leaves a column out, and
            a column that is not named gets the likelihood that its values call for. The whole table decides on levels
            and likelihoods; the training rows decide where their parameters start.
        missing: let NaN, and empty cells of a .csv file, through as missing entries, for ``VAE(..., missing=True)``.
        seed: of the random split and the draws; torch's and numpy's global generators are not touched.

    Raises:
        ValueError: if the source is unknown, absent, damaged or does not hold finite numbers, if it cannot be made
            binary, or if the schema does not fit the table.
    """
    generator = torch.Generator().manual_seed(check_seed(seed, recorded=True))
    check_values(source, binarize, levels, missing)
    splits, values = _read(source, root, generator, schema, missing)
    if binarize is not None:
        splits, values = binarized(splits, binarize, generator)
    elif levels is not None:
        splits, values = numbered(splits, levels)
    # until here `protocol` says only how the data were split
    return replace(splits, protocol=f"{splits.name}, {values}, {splits.protocol}")


def _read(
    source: Any,
    root: str | os.PathLike[str] | None,
    generator: torch.Generator,
    schema: Mapping[str, Entry] | None,
    missing: bool,
) -> tuple[Splits, str]:
    """Read the splits, and say what their values are."""
    if hasattr(source, "columns"):
        return _from_table(source, "table", schema or {}, generator, missing)
    path = Path(os.path.expanduser(source)) if isinstance(source, str | os.PathLike) else None
    if schema is not None:
        if path is None or path.suffix.lower() != ".csv":
            raise ValueError(f"Expected a .csv file or a DataFrame for a schema; got {source!s:.80}.")
        return _from_table(read_table(path, schema), path.name, schema, generator, missing)
    if path is None:
        return _from_arrays(source, "array", "source", generator, missing)
    if source == "digits":
        return _digits(generator), "counts 0 to 16"
    folder = cache_dir() if root is None else Path(os.path.expanduser(root))
    if source == "binarized_mnist":
        return _binarized_mnist(folder), "static binarisation of Larochelle and Murray (2011)"
    if source in _IDX_KINDS:
        return _idx(str(source), folder), "grey levels in [0, 1]"
    if path.suffix in (".npy", ".npz", ".csv") and not os.path.exists(path):
        raise ValueError(f"Expected a file at {path}; there is none. Check the spelling and the folder.")
    if not os.path.isfile(path):
        raise ValueError(
            f"Expected a data set ({', '.join(NAMES)}) or a .npy, .npz or .csv file; got {str(source)!r}, "
            f"which is neither. Check the spelling and the folder.{did_you_mean(str(source), NAMES)}"
        )
    splits, values = _from_arrays(read_arrays(path), path.name, str(path), generator, missing)
    names = read_header(path) if path.suffix.lower() == ".csv" else None
    return replace(splits, columns=None if names is None else tuple(names)), values


def _digits(generator: torch.Generator) -> Splits:
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = torch.randperm(len(digits.data), generator=generator)
    lengths = [len(order) - 600, 300, 300]
    train, valid, test = splits = torch.as_tensor(digits.data, dtype=torch.float32)[order].split(lengths)
    labels = torch.as_tensor(digits.target, dtype=torch.int64)[order].split(lengths)
    how = f"random split {sizes(splits)} (seed {generator.initial_seed()})"
    classes = dict(zip(SPLIT_NAMES, labels, strict=True))
    return Splits(train, valid, test, labels=classes, name="digits", protocol=how, image_shape=(1, 8, 8), max_count=16)


def _idx(name: str, root: Path) -> Splits:
    (images, labels), (test_images, test_labels) = read_idx(_IDX_KINDS[name], root)
    cut = len(images) - _IDX_VALID
    if cut < 1:
        raise ValueError(
            f"Expected more than {_IDX_VALID:,} images in the train file of {name}; got {len(images):,}. Get it again."
        )
    x, test = (grey.flatten(1).float().div_(255) for grey in (images, test_images))
    return Splits(
        x[:cut],
        x[cut:],
        test,
        labels={"train": labels[:cut], "valid": labels[cut:], "test": test_labels},
        name=name,
        protocol=f"first {cut:,} / last {_IDX_VALID:,} of train / test of {len(test):,}",
        image_shape=(1, *images.shape[1:]),
    )


def _binarized_mnist(root: Path) -> Splits:
    train, valid, test = splits = read_binarized_mnist(root)
    return Splits(train, valid, test, name="binarized_mnist", protocol=sizes(splits), image_shape=(1, 28, 28))


def _from_arrays(source: Any, name: str, called: str, generator: torch.Generator, missing: bool) -> tuple[Splits, str]:
    """Split one array, or take the splits of a mapping; `called` is what messages call the source."""
    splits, protocol = split_arrays(source, called, generator, missing)
    event = tuple(splits[0].shape[1:])
    image: Any = {2: (1, *event), 3: event}.get(len(event))
    train, valid, test = (x.reshape(len(x), -1) for x in splits)
    values = f"values as given{share_missing((train, valid, test))}"
    return Splits(train, valid, test, name=name, protocol=protocol, image_shape=image), values


def _from_table(
    frame: pd.DataFrame, name: str, schema: Mapping[str, Entry], generator: torch.Generator, missing: bool
) -> tuple[Splits, str]:
    """Encode a table and split its rows; the likelihood of its columns starts at the training rows."""
    table, x = encode_table(frame, schema)
    splits, values = _from_arrays(x, name, name, generator, missing)
    table.start_at(splits.train)
    columns = tuple(map(str, table.table.names))
    return replace(splits, columns=columns, table=table), values.replace("values as given", "a table of mixed columns")
