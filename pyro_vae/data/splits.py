"""Train, validation and test data, and arrays of any kind made into them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from pyro_vae.core.checks import check_tensor, needs_double

if TYPE_CHECKING:
    from pyro_vae.models.likelihoods import Mixed

SPLIT_NAMES = ("train", "valid", "test")
"""The names of the splits, in their order."""


@dataclass(frozen=True, eq=False, repr=False)
class Splits:
    """Train, validation and test data, float32 tensors of shape (N, *event).

    float64 where there are whole numbers that float32 cannot hold: a model of them is to be float64 too.

    Attributes:
        train: data to train on.
        valid: data to choose with.
        test: data to report on.
        labels: class labels by "train", "valid" and "test", where there are any.
        name: the data set's name.
        protocol: one line to record with every result: data, binarisation, sizes, how they were split, the seed.
        image_shape: (C, H, W) where the flat events are pictures.
        max_count: a Binomial's total, where the data are counts up to a known one.
        transform: apply it to each training minibatch, on its device; it draws from torch's global generator.
        table: likelihood of a table whose columns are of different kinds, its parameters started at train; it also
            encodes and decodes such tables. ``VAE(prior, splits.table, ...)`` trains it in place.
        columns: names of the columns of a table, where they are known.
    """

    train: Tensor
    valid: Tensor
    test: Tensor
    labels: dict[str, Tensor] | None = None
    name: str = ""
    protocol: str = ""
    image_shape: tuple[int, int, int] | None = None
    max_count: int | None = None
    transform: Callable[[Tensor], Tensor] | None = None
    table: Mixed | None = None
    columns: tuple[str, ...] | None = None

    @property
    def event_shape(self) -> torch.Size:
        """Shape of one datum."""
        return self.train.shape[1:]

    def __repr__(self) -> str:
        return f"Splits({self.protocol}; events of shape {tuple(self.event_shape)})"


def to_tensor(value: object, called: str, missing: bool = False) -> Tensor:
    """Copy an array or tensor of numbers to a tensor on the CPU: float32, or float64 for whole numbers it cannot hold.

    Args:
        value: shape (N, *event).
        called: what messages call it.
        missing: let NaN through.

    Raises:
        ValueError: if it is no array, empty, or holds anything but finite numbers.
    """
    if isinstance(value, Tensor):
        if value.layout is not torch.strided:
            raise ValueError(f"Expected {called} to be dense; got {value.layout}. Convert it: {called}.to_dense().")
        value = value.detach().cpu()
        value = (value.float() if value.dtype in (torch.bfloat16, torch.float16) else value).numpy()
    if not isinstance(value, np.ndarray):
        raise ValueError(
            f"Expected {called} to be a name, a path, an array, a tensor or a mapping of them; got "
            f"{type(value).__name__}. Convert it: numpy.asarray({called})."
        )
    if value.dtype.kind not in "biuf":
        raise ValueError(f"Expected {called} of real numbers; got dtype {value.dtype}. Convert or encode it.")
    dtype = np.float64 if needs_double(np.ma.filled(value, 0)) else np.float32
    with np.errstate(over="ignore"):
        array = np.array(value, dtype=dtype, order="C", subok=True)
    x = torch.from_numpy(np.ma.filled(array, np.nan))  # a masked entry is a missing one
    hint = ", or let NaN be missing: load_data(..., missing=True) and VAE(..., missing=True)"
    check_tensor(torch.where(x.isnan(), 0.0, x) if missing else x, called, hint)
    if x.numel() == 0:
        raise ValueError(f"Expected {called} with values in each datum; got shape {tuple(x.shape)}.")
    return x


def split_arrays(
    source: object, called: str, generator: torch.Generator, missing: bool = False
) -> tuple[list[Tensor], str]:
    """Split one array at random, or take the splits that a mapping holds.

    Args:
        source: an array or tensor, shape (N, *event), or a mapping of them by name.
        called: what messages call it.
        generator: of the random split.
        missing: let NaN through.

    Returns:
        train, valid and test, and how they were split.

    Raises:
        ValueError: if the arrays have other names, too few data, or events of different shapes.
    """
    if isinstance(source, Mapping):
        arrays = {key: to_tensor(value, f"{called}[{key!r}]", missing) for key, value in source.items()}
    else:
        arrays = {"": to_tensor(source, called, missing)}
    splits, how = _three_splits(in_one_dtype(arrays), called, generator)
    shapes = [tuple(x.shape[1:]) for x in splits]
    if len(set(shapes)) > 1:
        raise ValueError(
            f"Expected one event shape in all splits of {called}; got {', '.join(map(str, shapes))} in "
            f"{', '.join(SPLIT_NAMES)}. Reshape or crop them alike."
        )
    return splits, how


def in_one_dtype(arrays: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors in float64 if one of them is, so that a model can take all."""
    double = any(x.dtype == torch.float64 for x in arrays.values())
    return {name: x.double() if double else x for name, x in arrays.items()}


def _three_splits(arrays: dict[str, Tensor], called: str, generator: torch.Generator) -> tuple[list[Tensor], str]:
    seed = f"seed {generator.initial_seed()}"
    if len(arrays) == 1:
        splits = _hold_out(next(iter(arrays.values())), 2, called, generator)
        return splits, f"random split {sizes(splits)} ({seed})"
    if set(arrays) == {"train", "test"}:
        splits = [*_hold_out(arrays["train"], 1, f"{called}['train']", generator), arrays["test"]]
        return splits, f"{sizes(splits)}, valid held out of train at random ({seed})"
    if set(arrays) != set(SPLIT_NAMES):
        raise ValueError(
            f"Expected {called} to hold one array, or train, valid and test, or train and test; got "
            f"{', '.join(map(str, arrays)) or 'no arrays'}. Rename them or leave some out."
        )
    splits = [arrays[split] for split in SPLIT_NAMES]
    return splits, f"{sizes(splits)}, split as given"


def _hold_out(x: Tensor, tenths: int, called: str, generator: torch.Generator) -> list[Tensor]:
    """Split x at random into a rest and `tenths` tenths, each of at least one datum."""
    if len(x) <= tenths:
        raise ValueError(f"Expected at least {tenths + 1} data in {called} to split; got {len(x)}. Add data.")
    tenth = max(1, len(x) // 10)
    order = torch.randperm(len(x), generator=generator)
    return list(x[order].split([len(x) - tenths * tenth] + [tenth] * tenths))


def sizes(splits: Sequence[Tensor]) -> str:
    """Write how many data each split has: "50,000 / 10,000 / 10,000"."""
    return " / ".join(f"{len(x):,}" for x in splits)


def share_missing(splits: Sequence[Tensor]) -> str:
    """Write which share of all entries is missing: ", 3.0% of entries missing", or nothing where none is."""
    missing, total = (sum(map(count, splits)) for count in (lambda x: int(x.isnan().sum()), Tensor.numel))
    return f", {missing / total:.1%} of entries missing" if missing else ""
