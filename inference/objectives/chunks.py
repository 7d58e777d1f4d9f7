"""Functions of many particles in the memory of a few."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from pyro.poutine import runtime
from torch import Tensor
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

from pyro_vae.inference.programs.again import recording
from pyro_vae.inference.programs.call import Args, Program, modules_of_both
from pyro_vae.inference.programs.state import Snapshot

Weigh = Callable[..., Tensor]
"""Called with the number of a chunk and the programs' arguments; returns what is wanted of its particles, (k, ...)."""


def by_chunk(weigh: Weigh, num_chunks: int, args: Args, programs: tuple[Program, Program]) -> Tensor:
    """Return what ``weigh`` returns of all chunks, shape (K, ...), with the graph of no more than one in memory.

    Each chunk leaves that behind, and the state of the random number generators and of the programs' modules before
    it. The backward pass runs it again from there, under the Pyro handlers of the forward pass, and leaves the
    generators and the modules as they are: the running means of batch normalisation see each chunk once.

    Raises:
        RuntimeError: while a graph of tensor operations is recorded, in which random numbers cannot be drawn
            twice.
    """
    if num_chunks == 1:
        return weigh(0, *args)
    if not torch.is_grad_enabled():
        return torch.cat([weigh(chunk, *args) for chunk in range(num_chunks)])
    if recording():
        raise RuntimeError("the objective has chunk_size, and runs its particles again in the backward pass")
    run, modules, results = _under_these_handlers(weigh), modules_of_both(*programs), []
    before: Snapshot | None = None
    with set_checkpoint_early_stop(False):  # by an exception in the middle of the programs
        for chunk in range(num_chunks):
            before = Snapshot(modules, before)
            around = partial(_forward_and_again, before)
            results.append(checkpoint(run, chunk, *args, use_reentrant=False, context_fn=around))
    return torch.cat(results)


def _forward_and_again(before: Snapshot) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Return what surrounds the forward pass of a chunk, and what its run in the backward pass."""
    return nullcontext(), before


def _under_these_handlers(weigh: Weigh) -> Weigh:
    """Return the function with the handlers that are active now, such as ``KLWeight``, whenever it is called."""
    handlers = list(runtime._PYRO_STACK)

    def run(*args: Any) -> Tensor:
        with _handlers(handlers):
            return weigh(*args)

    return run


@contextmanager
def _handlers(handlers: list[Any]) -> Iterator[None]:
    before = list(runtime._PYRO_STACK)
    runtime._PYRO_STACK[:] = handlers
    try:
        yield
    finally:
        runtime._PYRO_STACK[:] = before
