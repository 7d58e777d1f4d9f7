"""Log weights of one chunk of data and particles as one compiled graph."""

from __future__ import annotations

import warnings
from dataclasses import replace

from torch import Tensor

from pyro_vae.inference.call_state import compile_programs
from pyro_vae.inference.compilation import CannotCompileError, layout
from pyro_vae.inference.methods import Method
from pyro_vae.inference.methods.base import Args, LogWeights, Pair

WORTHWHILE = 10_000_000
"""Weights that pay for compilation: about 3 s are saved on a million of a small network, and 15 s spent."""


def compile_if_worthwhile(
    how: Method, pair: Pair, setting: bool | str, num_weights: int, args: Args, chunk: int, count: int
) -> Pair:
    """Return the pair with its log weights compiled, always if the setting is True, if "auto" where that pays.

    Args:
        how: the method.
        pair: the programs.
        setting: True, False or "auto".
        num_weights: how many weights there will be.
        args: all data.
        chunk: data in a chunk.
        count: particles in a chunk; chunks of another size run as they are.
    """
    if setting is False or (setting == "auto" and num_weights < WORTHWHILE):
        return pair
    function = how.log_weights(pair)
    try:
        if function is None:
            raise CannotCompileError(f"{how} makes its weights in many steps")
        fast = _CompiledWeights(pair, function, tuple(a[:chunk] for a in args), tuple(a[-chunk:] for a in args), count)
        return replace(pair, compiled=fast)
    except CannotCompileError as reason:
        if setting is True:
            warnings.warn(f"Cannot compile, so the weights are computed eagerly: {reason}.", stacklevel=3)
        return pair


class _CompiledWeights:
    """A function of the same log weights, compiled for the shapes of one chunk."""

    def __init__(self, pair: Pair, function: LogWeights, chunk: Args, other: Args, count: int) -> None:
        self._function, self._count, self._layout = function, count, layout(chunk)
        self._graph = compile_programs(pair.model, pair.guide, lambda *args: (function(args, count),), chunk, other)

    def __call__(self, batch: Args, count: int) -> Tensor:
        if count != self._count or layout(batch) != self._layout:
            return self._function(batch, count)
        (log_w,) = self._graph(*batch)
        assert log_w is not None  # the graph returns what the function returns
        return log_w
