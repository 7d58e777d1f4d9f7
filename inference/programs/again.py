"""Scoring values under a program that drew others, or the same, before: with the random numbers that it had then."""

from __future__ import annotations

from typing import Any

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyro_vae.inference.programs.call import Args, Program
from pyro_vae.inference.programs.sites import sample_sites


class RandomState:
    """The state of the generators of the CPU and of a device, as it is now."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device if device.type == "cuda" else None
        self._states = self._now()

    def _now(self) -> list[Tensor]:
        of_cuda = [] if self._cuda is None else [torch.cuda.get_rng_state(self._cuda)]
        return [torch.get_rng_state(), *of_cuda]

    def holds(self) -> bool:
        """Say whether no random number has been drawn since."""
        return all(torch.equal(*pair) for pair in zip(self._now(), self._states, strict=True))

    def put_back(self) -> None:
        """Draw from here again."""
        torch.set_rng_state(self._states[0])
        if self._cuda is not None:
            torch.cuda.set_rng_state(self._states[1], self._cuda)


class _Exchange(Messenger):
    """Handler that lets sites draw, and gives other values in the place of the draws."""

    def __init__(self, values: dict[str, Tensor]) -> None:
        super().__init__()
        self.values = values

    def _pyro_post_sample(self, msg: Any) -> None:
        if msg["name"] in self.values:
            msg["value"] = self.values[msg["name"]]


class Replay(Messenger):
    """Handler that gives the latents of a model the values of a guide's trace, as ``poutine.replay`` does.

    What the model says of its sites stays, where ``poutine.replay`` puts what the guide says: with ``pyro.markov``
    that tells which latents are summed out beside which.

    Args:
        trace: the guide's.
    """

    def __init__(self, trace: Trace) -> None:
        super().__init__()
        self.trace = trace

    def _pyro_sample(self, msg: Any) -> None:
        node = self.trace.nodes.get(msg["name"])
        if node is not None and node["type"] == "sample" and not (msg["is_observed"] or node["is_observed"]):
            msg["value"], msg["done"] = node["value"], True


def run_again(program: Program, args: Args, values: Trace, before: RandomState) -> Trace:
    """Return a trace of a program at values, run with the random numbers of its run from ``before`` on.

    A program at given values draws nothing, unless its networks are random themselves, as with dropout: other masks
    make another density, of which the draw is none. Then all is drawn once more, and the draws are exchanged.

    Args:
        program: any Pyro program.
        args: its arguments.
        values: a trace of the program, with the values to score.
        before: the random state in which the program ran.

    Raises:
        RuntimeError: for a random program while a graph of tensor operations is recorded, in which random numbers
            cannot be drawn twice.
    """
    after = RandomState(args[0].device)
    trace = poutine.trace(poutine.replay(program, trace=values)).get_trace(*args)
    if after.holds():
        return trace
    if recording():
        raise RuntimeError("a program draws random numbers beside its sites, as dropout does, and is run twice")
    before.put_back()
    latents = {name: site["value"] for name, site in sample_sites(values).items() if not site["is_observed"]}
    with _Exchange(latents):
        trace = poutine.trace(program).get_trace(*args)
    after.put_back()
    return trace


def recording() -> bool:
    """Say whether a graph of tensor operations is being recorded."""
    from torch.fx.experimental.proxy_tensor import get_proxy_mode

    return get_proxy_mode() is not None
