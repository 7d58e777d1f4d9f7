"""Whether what takes the time of an evaluation is compiled."""

from __future__ import annotations

import warnings
from dataclasses import replace

from pyro_vae.inference.compile.record import CannotCompileError
from pyro_vae.inference.scoring.base import Args, Method, Pair

WORTHWHILE = 10_000_000
"""Rounds of work that pay for compilation: about 3 s are saved on a million of a small network, and 15 s spent."""


def compile_if_worthwhile(
    how: Method, pair: Pair, setting: bool | str, num_rounds: int, chunks: tuple[Args, Args], count: int
) -> Pair:
    """Return the pair with what the method compiles, always if the setting is True, if "auto" where that pays.

    Args:
        how: the method.
        pair: the programs.
        setting: True, False or "auto".
        num_rounds: how many weights there will be, times the temperatures of each where they are annealed.
        chunks: the first data and the last as chunks of full size.
        count: particles in a chunk; chunks of another size run as they are.
    """
    if setting is False or (setting == "auto" and num_rounds < WORTHWHILE):
        return pair
    try:
        return replace(pair, compiled=how.compile(pair, *chunks, count))
    except CannotCompileError as reason:
        if setting is True:
            warnings.warn(f"Cannot compile, so the weights are computed eagerly: {reason}.", stacklevel=3)
        return pair
