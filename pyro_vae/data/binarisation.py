"""Grey levels made binary by a named protocol, or made into the numbers of their levels."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, get_args

import torch
from torch import Tensor

from pyro_vae.core.checks import check_positive_int, did_you_mean
from pyro_vae.data.splits import SPLIT_NAMES, Splits

Binarisation = Literal["static", "dynamic", "threshold"]
BINARISATIONS = get_args(Binarisation)
BYTE = 255
TOLERANCE = 1e-3
"""How far 255 times a grey level may be from a whole number: rounding in float32 is below it."""


def draw_binary(grey: Tensor) -> Tensor:
    """Draw each entry x from Bernoulli(x), with torch's global generator; any shape."""
    return torch.bernoulli(grey)


def binarized(splits: Splits, how: str, generator: torch.Generator) -> tuple[Splits, str]:
    """Make grey levels binary.

    Args:
        splits: grey levels in [0, 1], or counts with a ``max_count``, which are divided by it.
        how: one of ``BINARISATIONS``.
        generator: of the draws.

    Returns:
        the binary splits, and a phrase for their protocol.

    Raises:
        ValueError: for values outside [0, 1].
    """
    train, valid, test = (_grey(splits, split, "make binary") for split in SPLIT_NAMES)
    splits = replace(splits, max_count=None)
    if how == "threshold":
        train, valid, test = ((x >= 0.5).to(x.dtype) for x in (train, valid, test))
        return replace(splits, train=train, valid=valid, test=test), "grey levels thresholded at 0.5"
    # train comes last, so that valid and test are the same data under static and dynamic
    valid, test = (torch.bernoulli(x, generator=generator) for x in (valid, test))
    splits = replace(splits, train=train, valid=valid, test=test)
    seed = f"seed {generator.initial_seed()}"
    if how == "dynamic":
        words = f"dynamic binarisation (train redrawn at every use, valid and test drawn once, {seed})"
        return replace(splits, transform=draw_binary), words
    train = torch.bernoulli(train, generator=generator)
    return replace(splits, train=train), f"static binarisation (all drawn once, {seed})"


def numbered(splits: Splits, levels: int) -> tuple[Splits, str]:
    """Replace grey levels b / 255 by level numbers floor(levels b / 256), from 0 to levels - 1.

    Args:
        splits: grey levels of 8-bit images, b = 0, ..., 255.
        levels: how many levels there are to be, 2 to 256.

    Returns:
        the splits of level numbers, and a phrase for their protocol.

    Raises:
        ValueError: for values that are not grey levels b / 255.
    """
    train, valid, test = (_bytes(splits, split) * levels // (BYTE + 1) for split in SPLIT_NAMES)
    words = f"level numbers 0 to {levels - 1} of 8-bit grey levels"
    return replace(splits, train=train, valid=valid, test=test, max_count=None), words


def check_values(source: object, binarize: str | None, levels: int | None, missing: bool) -> None:
    """Refuse unknown values of ``binarize`` and ``levels``, and combinations of them, with a ``ValueError``."""
    if levels is not None:
        check_positive_int(levels, "levels")
        if not 2 <= levels <= BYTE + 1:
            raise ValueError(f"Expected levels from 2 to 256, for 8-bit images; got {levels}.")
    if binarize is None:
        return
    if binarize not in BINARISATIONS:
        raise ValueError(
            f"Expected binarize to be None or one of {', '.join(BINARISATIONS)}; got {binarize!r}."
            f"{did_you_mean(binarize, BINARISATIONS)}"
        )
    if isinstance(source, str) and source == "binarized_mnist":
        raise ValueError(
            f"Expected binarize=None for binarized_mnist, which is binary already; got {binarize!r}. "
            "Leave it out, or load mnist."
        )
    if levels is not None or missing:
        raise ValueError("Expected binarize without levels and missing; got both. Leave one of them out.")


def are_bytes(x: Tensor) -> bool:
    """Say whether values are grey levels b / 255, b = 0, ..., 255."""
    x = x[~x.isnan()]
    return bool(((x >= 0) & (x <= 1) & ((BYTE * x - (BYTE * x).round()).abs() < TOLERANCE)).all())


def _bytes(splits: Splits, split: str) -> Tensor:
    grey = _grey(splits, split, "number")
    if not are_bytes(grey):
        raise ValueError(
            f"Expected grey levels b / 255 of 8-bit images to number; got other values in {split}. Give whole numbers "
            "without levels=..., or choose a likelihood for real numbers."
        )
    return (BYTE * grey).round()


def _grey(splits: Splits, split: str, purpose: str) -> Tensor:
    """Return the grey levels of one split, shape (N, *event), counts divided by the largest possible one."""
    x: Tensor = getattr(splits, split) / (splits.max_count or 1)
    low, high = (bound.item() for bound in x[~x.isnan()].aminmax())
    if low < 0 or high > 1:
        raise ValueError(
            f"Expected grey levels in [0, 1] to {purpose}; got values from {low:g} to {high:g} in {split}. "
            "Rescale all splits alike first: x / 255 for bytes."
        )
    return x
