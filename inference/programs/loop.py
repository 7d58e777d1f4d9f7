"""Running programs for a diagnostic: chunk by chunk, in evaluation mode, with the global random state left alone."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Integral
from typing import Any

import numpy as np
import torch
from pyro import poutine
from pyro.poutine.trace_struct import Trace
from torch import Tensor
from tqdm.auto import tqdm

from pyro_vae.inference.programs.call import Data, Program, as_args, fork_rng, place, training_mode
from pyro_vae.inference.programs.vectorize import plan_particles, scored
from pyro_vae.inference.programs.weights import WeightTerms, weight_terms

Args = tuple[Tensor, ...]
FEW = 100
"""Data on which it is tried how particles can run."""


@contextmanager
def evaluating(model: Program, guide: Program, x: Data, seed: int, device: str | torch.device) -> Iterator[Args]:
    """Yield the placed arguments inside evaluation mode, without gradients, with a seeded random state."""
    args, chosen = place(model, guide, as_args(x), device)
    with torch.no_grad(), training_mode(model, guide, False), fork_rng(chosen, seed):
        yield args


def batches(args: Args, num_particles: int, chunk_size: int, desc: str, progress: bool) -> Iterator[Args]:
    """Split the data so that few hundred particles of a batch are no more than ``chunk_size`` pairs."""
    num_data = len(args[0])
    size = max(1, min(num_data, chunk_size // min(num_particles, 256)))
    with tqdm(total=num_data, desc=desc, unit="datum", unit_scale=True, disable=None if progress else True) as bar:
        for batch in zip(*(arg.split(size) for arg in args), strict=True):
            yield batch
            bar.update(len(batch[0]))


def counts(total: int, most: int) -> list[int]:
    """Return how many to take each time: at most ``most``, ``total`` in all."""
    most = max(1, min(most, total))
    return [most] * (total // most) + ([total % most] if total % most else [])


def particle_terms(
    model: Program, guide: Program, batch: Args, num_particles: int, chunk_size: int, plan: int
) -> Iterator[WeightTerms]:
    """Yield the terms of log w of K particles, at most ``chunk_size`` pairs at once.

    Args:
        model: Pyro program for p(x, z).
        guide: Pyro program for q(z | x).
        batch: their arguments.
        num_particles: K.
        chunk_size: largest number of (particle, datum) pairs in memory at once.
        plan: what ``plan_particles`` returned; one particle at a time where it is 0.
    """
    for count in counts(num_particles, chunk_size // len(batch[0]) if plan else 1):
        yield weight_terms(model, guide, batch, count, plan=plan)


def plan_for(model: Program, guide: Program, args: Args) -> int:
    """Return how particles can run, found out on a few data; see ``plan_particles``."""
    return plan_particles(model, guide, tuple(arg[:FEW] for arg in args))


def latent_values(terms: WeightTerms) -> dict[str, Tensor]:
    """Return {site: value, shape (K, B, *plates, *event)} of the model's latent sites, drawn by the guide.

    Raises:
        ValueError: if there is no latent site.
    """
    if not terms.prior:
        raise ValueError("Expected programs with latent sites; there is none to diagnose.")
    sites = {name: terms.guide_sites[name] for name in terms.prior}
    ndim = 2 + terms.inner_plates
    return {name: with_particles(site["value"], ndim + site["fn"].event_dim) for name, site in sites.items()}


def with_particles(value: Tensor, ndim: int) -> Tensor:
    """Give a tensor of a single particle that ran without that dimension one in front."""
    return value if value.ndim == ndim else value[None]


def given(latents: dict[str, Tensor]) -> Trace:
    """Return a trace for ``poutine.replay`` that holds these values of latent sites."""
    trace = Trace()
    for name, value in latents.items():
        trace.add_node(name, name=name, type="sample", value=value, is_observed=False, infer={})
    return trace


def terms_at(model: Program, guide: Program, args: Args, latents: dict[str, Tensor], score_guide: bool) -> WeightTerms:
    """Return the terms at given latents of shape (B, ...), K = 1; without ``score_guide``, log q is that of a draw.

    Raises:
        ValueError: if the guide cannot score a value that it did not draw.
    """

    def tracer(model: Program, guide: Program, args: tuple[Any, ...]) -> tuple[Trace, Trace]:
        guide_trace = guide_at(guide, args, latents) if score_guide else scored(poutine.trace(guide).get_trace(*args))
        return scored(poutine.trace(poutine.replay(model, trace=given(latents))).get_trace(*args)), guide_trace

    return weight_terms(model, guide, args, 1, tracer=tracer)


def guide_at(guide: Program, args: Args, latents: dict[str, Tensor]) -> Trace:
    """Return the guide's trace, scored at given latents.

    Raises:
        ValueError: if the guide cannot score a value that it did not draw.
    """
    try:
        return scored(poutine.trace(poutine.replay(guide, trace=given(latents))).get_trace(*args))
    except (KeyError, NotImplementedError) as error:  # what torch's and Pyro's flows raise
        raise ValueError(
            "The guide cannot score a value that it did not just draw, as a flow without an inverse. Use sbc, which "
            "wants draws alone."
        ) from error


def unit_labels(name: str, shape: torch.Size) -> list[str]:
    """Name the entries of a site: "z" for a single one, "z[0]", "z[1]", ... or "z[0, 1]", ... for several."""
    if shape.numel() == 1:
        return [name]
    return [f"{name}[{', '.join(map(str, index))}]" for index in np.ndindex(*shape)]


def check_two(value: int, name: str) -> None:
    """Refuse fewer than the two that a variance takes, with a ``ValueError``."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 2:
        raise ValueError(f"Expected {name} to be an integer >= 2; got {value!r}. A variance takes two.")


def standard_error(values: Tensor) -> Tensor:
    """Return the standard error of the mean over data, shape (...) of values (N, ...); NaN for N = 1."""
    return values.std(0) / math.sqrt(len(values)) if len(values) > 1 else values[0] * math.nan


def listed(labels: list[str], most: int = 6) -> str:
    """Join labels, the first few of many."""
    return ", ".join(labels[:most]) + (f" and {len(labels) - most} more" if len(labels) > most else "")
