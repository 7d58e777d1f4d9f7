"""Labels y, on which a conditional model of x depends: the data set's classes, or a column of a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pyro_vae.core.checks import did_you_mean
from pyro_vae.data.splits import SPLIT_NAMES, Splits

MAX_CLASSES = 20
"""The most classes that a column of whole numbers is taken to have; with more it is a real covariate."""


@dataclass(frozen=True)
class Labels:
    """Labels of all splits as the programs take them.

    Attributes:
        y: {"train": ..., "valid": ..., "test": ...}: class indices, shape (N,), or a standardised covariate, shape
            (N, 1).
        values: the label of each class, shape (C,); None for a covariate.
        loc: mean of a covariate in the training data.
        scale: its standard deviation there.
    """

    y: dict[str, Tensor]
    values: Tensor | None = None
    loc: float = 0.0
    scale: float = 1.0

    @property
    def width(self) -> int:
        """Entries of y as a vector: the number of classes, of which it is one-hot, or 1 for a covariate."""
        return 1 if self.values is None else len(self.values)

    @property
    def model_arguments(self) -> dict[str, Any]:
        """The argument that tells models and guides what y is, {"num_classes": C} or {"num_covariates": 1}."""
        return {"num_covariates" if self.values is None else "num_classes": self.width}

    def encode(self, labels: Sequence[float]) -> Tensor:
        """Return y of labels that a user typed.

        Args:
            labels: M labels of classes, or values of the covariate.

        Returns:
            class indices, shape (M,), or standardised covariates, shape (M, 1).

        Raises:
            ValueError: for a label that no class has.
        """
        typed = torch.tensor(labels, dtype=torch.float32)
        if self.values is None:
            return ((typed - self.loc) / self.scale)[:, None]
        same = typed[:, None] == self.values
        if not same.any(1).all():
            known = ", ".join(f"{v:g}" for v in self.values.tolist())
            wrong = typed[~same.any(1)][0]
            raise ValueError(f"Expected a label among {known}; got {wrong:g}.")
        return same.long().argmax(1)


def labels_of(splits: Splits) -> Labels:
    """Return the labels of all splits.

    Raises:
        ValueError: if there are none, or fewer than two classes.
    """
    if splits.labels is None:
        raise ValueError(
            f"Expected data with labels; {splits.name} has none. Name a column of a table, --model.label COLUMN, or "
            "take a data set with classes, such as digits or mnist."
        )
    every = torch.cat([splits.labels[split] for split in SPLIT_NAMES])
    if every.is_floating_point():
        train = splits.labels["train"]
        loc, scale = train.mean().item(), train.std().item()
        if not scale > 0:
            raise ValueError("Expected a label that varies over the training data; it has one value.")
        return Labels(
            {split: ((splits.labels[split] - loc) / scale)[:, None] for split in SPLIT_NAMES}, None, loc, scale
        )
    values = every.unique()
    if len(values) < 2:
        raise ValueError(f"Expected labels of at least two classes; got {values.tolist()} alone.")
    return Labels({split: torch.searchsorted(values, splits.labels[split]) for split in SPLIT_NAMES}, values)


def take_column(splits: Splits, column: str) -> Splits:
    """Return a table without one of its columns, which becomes the labels.

    Args:
        splits: a table.
        column: its name, or its position from 0. Of a column with levels the labels are the numbers of the levels.

    Raises:
        ValueError: for data that are no table of at least two columns, or a column that it does not have.
    """
    if splits.image_shape is not None or splits.train.ndim != 2 or splits.train.shape[1] < 2:
        raise ValueError(
            f"Expected a table of at least two columns for --model.label; {splits.name} is none. "
            "Leave it out to take the data set's own classes."
        )
    index = _position(splits, column)
    arrays = {split: getattr(splits, split) for split in SPLIT_NAMES}
    labels = {split: x[:, index] for split, x in arrays.items()}
    if any(y.isnan().any() for y in labels.values()):
        raise ValueError(f"Expected no missing entries in the label column {column!r}. Leave those rows out.")
    if is_class(torch.cat(list(labels.values()))):
        labels = {split: y.long() for split, y in labels.items()}
    rest: dict[str, Any] = {split: torch.cat([x[:, :index], x[:, index + 1 :]], 1) for split, x in arrays.items()}
    if splits.columns is not None:
        rest["columns"] = splits.columns[:index] + splits.columns[index + 1 :]
    if splits.table is not None:
        rest["table"] = splits.table.without(splits.table.table.names[index])
    return replace(splits, **rest, labels=labels, protocol=f"{splits.protocol}, given column {column}")


def is_class(y: Tensor) -> bool:
    """Say whether a column holds classes: whole numbers, of which at most 20 are different."""
    return bool((y == y.round()).all()) and len(y.unique()) <= MAX_CLASSES


def _position(splits: Splits, column: str) -> int:
    width, names = splits.train.shape[1], splits.columns or ()
    if column in names:
        return names.index(column)
    if column.isdecimal() and int(column) < width:
        return int(column)
    known = ", ".join(names) if names else f"0 to {width - 1}"
    raise ValueError(
        f"Expected a column of {splits.name}; got {column!r}.{did_you_mean(column, names)} It has {known}."
    )
