"""The one loop over data and particles: chunk by chunk, with a progress bar, on the device, in evaluation mode.

Two sizes bound the memory: how many data run at once, ``data_at_once``, and how many particles of each,
``split_particles``, so that no more than ``chunk_size`` (particle, datum) pairs exist at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from tqdm.auto import tqdm

from pyro_vae.inference.programs.call import Args, Data, Program, as_args, place, seed_rng, short_errors, training_mode
from pyro_vae.inference.programs.plates import Plates
from pyro_vae.inference.programs.trial import check_store, trial
from pyro_vae.inference.programs.vectorize import find_plates, first_run, is_tied
from pyro_vae.inference.programs.weights import WeightTerms, weight_terms

MOST_PARTICLES = 256
"""Particles of a datum for which a batch of data leaves room; more of them run one chunk after another."""


@contextmanager
def evaluation_mode(model: Program, guide: Program, device: torch.device, seed: int) -> Iterator[None]:
    """Run programs that are placed, in evaluation mode, without gradients, with a seeded random state of their own.

    At the end they are as they were, and Pyro's parameter store too, see ``trial``.
    """
    check_store(model, guide)
    with torch.no_grad(), training_mode(model, guide, False), trial(model, guide, device):
        seed_rng(device, seed)
        yield


@contextmanager
def evaluation_on_device(
    model: Program, guide: Program, x: Data, seed: int, device: str | torch.device
) -> Iterator[Args]:
    """Move programs and data to the device, yield the data there, and run in ``evaluation_mode``."""
    args, chosen = place(model, guide, as_args(x), device)
    with evaluation_mode(model, guide, chosen, seed), short_errors():
        first_run(model, guide, args, chosen)
        seed_rng(chosen, seed)
        yield args


def send(batch: Args, device: torch.device) -> Args:
    """Return tensors on the device; a copy to a GPU is asynchronous, from pinned memory."""
    pinned = (arg.pin_memory() if device.type == "cuda" and not arg.is_cuda else arg for arg in batch)
    return tuple(arg.to(device, non_blocking=device.type == "cuda") for arg in pinned)


def split_data(args: Args, size: int) -> list[Args]:
    """Return the data in their order, in chunks of this size; the last one may be smaller."""
    return list(zip(*(arg.split(size) for arg in args), strict=True))


def split_particles(num_particles: int, num_data: int, chunk_size: int | None) -> list[int]:
    """Return K in parts, each of at most ``chunk_size`` (particle, datum) pairs, though at least one particle.

    Args:
        num_particles: K.
        num_data: B, data that each particle is drawn for.
        chunk_size: largest number of pairs in memory at once; no limit if None.
    """
    size = num_particles if chunk_size is None else max(1, chunk_size // num_data)
    return [min(size, num_particles - start) for start in range(0, num_particles, size)]


def data_at_once(num_data: int, num_particles: int, chunk_size: int, together: bool = False) -> int:
    """Return how many data run at once, so that their particles are no more than ``chunk_size`` pairs.

    Args:
        num_data: N, more than which is never returned.
        num_particles: K.
        chunk_size: largest number of (particle, datum) pairs in memory at once.
        together: whether the K particles of a datum run together; otherwise there is room for a few hundred of them.
    """
    particles = num_particles if together else min(num_particles, MOST_PARTICLES)
    return max(1, min(num_data, chunk_size // particles))


def whole_if_tied(model: Program, guide: Program, args: Args, size: int) -> int:
    """Return how many data run at once: ``size``, or all where the programs are tied to their number."""
    num_data = len(args[0])
    return num_data if size < num_data and is_tied(model, guide, args, args[0].device) else size


def progress_bar(
    total: int,
    progress: bool,
    desc: str | None = None,
    *,
    unit: str = "datum",
    unit_scale: bool = True,
    initial: int = 0,
) -> tqdm:
    """Return a progress bar that is shown where there is a terminal, and never if ``progress`` is False."""
    shown = None if progress else True
    return tqdm(total=total, desc=desc, unit=unit, unit_scale=unit_scale, initial=initial, disable=shown)


def split_data_with_bar(args: Args, size: int, desc: str, progress: bool) -> Iterator[Args]:
    """Yield the data in their order, in chunks of this size, with a progress bar."""
    with progress_bar(len(args[0]), progress, desc) as bar:
        for batch in split_data(args, size):
            yield batch
            bar.update(len(batch[0]))


def particle_terms(
    model: Program, guide: Program, batch: Args, num_particles: int, chunk_size: int, plates: Plates
) -> Iterator[WeightTerms]:
    """Yield the terms of log w of K particles, at most ``chunk_size`` pairs at once.

    Args:
        model: Pyro program for p(x, z).
        guide: Pyro program for q(z | x).
        batch: their arguments, B data.
        num_particles: K.
        chunk_size: largest number of (particle, datum) pairs in memory at once.
        plates: how the programs' plates lie, and how particles run; see ``find_plates``.
    """
    for count in split_particles(num_particles, len(batch[0]), chunk_size if plates.together else 1):
        yield weight_terms(model, guide, batch, count, plates=plates)


def terms_by_batch(
    model: Program, guide: Program, args: Args, num_particles: int, chunk_size: int, desc: str, progress: bool
) -> Iterator[tuple[Args, Iterator[WeightTerms]]]:
    """Yield the data batch by batch, each with the terms of log w of its K particles, chunk by chunk.

    Args:
        model: Pyro program for p(x, z).
        guide: Pyro program for q(z | x).
        args: their arguments, N data.
        num_particles: K.
        chunk_size: largest number of (particle, datum) pairs in memory at once.
        desc: what the progress bar says is being done.
        progress: show a progress bar, where there is a terminal to show it.
    """
    size = whole_if_tied(model, guide, args, data_at_once(len(args[0]), num_particles, chunk_size))
    plates = find_plates(model, guide, tuple(arg[:size] for arg in args))
    for batch in split_data_with_bar(args, size, desc, progress):
        yield batch, particle_terms(model, guide, batch, num_particles, chunk_size, plates)
