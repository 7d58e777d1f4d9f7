"""Minibatches: drawn without replacement, on the device, from data that may be too many for its memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from pyro_vae.inference.programs.call import Args
from pyro_vae.inference.programs.loop import send

Transform = Callable[[Tensor], Tensor]


def fits_in_memory(args: Args, device: torch.device) -> bool:
    """Say whether data take no more than half of what a CUDA device has free; those that are there count nothing."""
    if device.type != "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    return sum(arg.nbytes for arg in args if not arg.is_cuda) <= free / 2


def transformed(transform: Transform | None, batch: Args) -> Args:
    """Return a minibatch with its first tensor transformed."""
    return batch if transform is None else (transform(batch[0]), *batch[1:])


class Minibatches:
    """The minibatches of one epoch after another, each epoch in another random order; all data at once in their own.

    Data that are resident lie on the device. Of others each minibatch is gathered in the CPU's memory and copied
    one step before it is used, so that the device does not wait for the gathering. The order, the random numbers
    and with them the minibatches are the same.

    Args:
        args: the data, tensors of length N.
        batch_size: data in a minibatch; the last one of an epoch may be smaller.
        device: where the minibatches are.
        transform: applied to the first tensor of each minibatch, on the device, when it is used.
        resident: keep all data on the device.

    Attributes:
        in_order: data come in the order in which they are, not a random one, all at once: where programs have numbers
            of their own for each datum, these are of the data in this order.
        none_alone: a last minibatch of one datum is joined to the one before, for batch normalisation has no spread of
            one.
    """

    def __init__(
        self, args: Args, batch_size: int, device: torch.device, transform: Transform | None, resident: bool
    ) -> None:
        self.in_order = self.none_alone = False
        self.args = tuple(arg.to(device) for arg in args) if resident else args
        self.batch_size, self.device, self.transform, self.resident = batch_size, device, transform, resident

    def __len__(self) -> int:
        """Return N."""
        return len(self.args[0])

    def __iter__(self) -> Iterator[Args]:
        """Yield the minibatches of an epoch."""
        order = torch.arange(len(self)) if self.in_order else torch.randperm(len(self))
        order = order.to(self.args[0].device)
        batches = (self._take(index) for index in self._split(order))
        for batch in batches if self.resident else one_ahead(batches):
            yield self._transformed(batch)

    @property
    def steps(self) -> int:
        """Minibatches in an epoch."""
        return len(self._split(torch.arange(len(self))))

    def _split(self, order: Tensor) -> list[Tensor]:
        parts = list(order.split(self.batch_size))
        if self.none_alone and len(parts) > 1 and len(parts[-1]) == 1:
            parts[-2:] = [torch.cat(parts[-2:])]
        return parts

    def examples(self) -> tuple[Args, Args]:
        """Return the first and the last data as minibatches of full size, laid out in memory as those of an epoch."""
        every = torch.arange(len(self), device=self.args[0].device)
        first, last = self._take(every[: self.batch_size]), self._take(every[-self.batch_size :])
        return self._transformed(first), self._transformed(last)

    def _transformed(self, batch: Args) -> Args:
        """Transform a minibatch, whole in memory: a step that is one CUDA graph copies it into memory of its own."""
        x, *others = transformed(self.transform, batch)
        return x.contiguous(), *others

    def _take(self, index: Tensor) -> Args:
        rows = tuple(arg.index_select(0, index) for arg in self.args)  # copied whole, as arg[index] does not
        return send(rows, self.device)


def one_ahead(batches: Iterable[Args]) -> Iterator[Args]:
    """Yield minibatches, each once the next one has been made, so that its copy to the device goes on meanwhile."""
    iterator = iter(batches)
    ready = next(iterator)
    for batch in iterator:
        yield ready
        ready = batch
    yield ready
