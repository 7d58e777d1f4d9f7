"""Draws from the posterior p(z|x) of each datum, by resampling weighted draws of the guide; as ArviZ's data too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.trace_struct import Trace
from torch import Tensor
from tqdm.auto import tqdm

from pyro_vae.core.checks import check_positive_int
from pyro_vae.inference.programs.call import Program
from pyro_vae.inference.programs.structure import PARTICLES, sample_sites
from pyro_vae.inference.programs.vectorize import plan_particles, trace_pair
from pyro_vae.inference.programs.weights import weight_terms

MAX_PAIRS = 10_000
"""Largest number of (particle, datum) pairs in memory at once, beside the draws that are kept."""


@dataclass(frozen=True)
class Source:
    """What an evaluation was made from.

    Attributes:
        model: Pyro program for p(x, z).
        guide: Pyro program for q(z | x).
        args: their arguments, wherever they are.
        device: where the programs are.
    """

    model: Program
    guide: Program
    args: tuple[Tensor, ...]
    device: torch.device


@dataclass(frozen=True)
class PosteriorDraws:
    """Draws of p(z|x_n) and of data that they predict.

    Attributes:
        latents: {site: z, shape (S, N, ...)}.
        predictive: {site: x drawn from p(x|z), shape (S, N, ...)}.
        log_likelihood: {site: log p(x_n|z), shape (S, N)}, in nats.
        log_w: log weights of the draws before they were resampled, shape (S, N), in nats.
    """

    latents: dict[str, Tensor]
    predictive: dict[str, Tensor]
    log_likelihood: dict[str, Tensor]
    log_w: Tensor


@torch.no_grad()
def posterior_draws(
    model: Program,
    guide: Program,
    args: tuple[Tensor, ...],
    num_draws: int,
    num_particles: int = 1000,
    *,
    progress: bool = False,
) -> PosteriorDraws:
    """Draw from p(z|x_n) for each datum by sampling importance resampling, and x from p(x|z) at those draws.

    K draws of the guide are resampled with probabilities proportional to their weights. As K grows their law
    becomes the posterior, whatever the guide; where the weights cannot be trusted (k-hat above 0.7), neither can
    the draws, a few of which are then repeated many times.

    Args:
        model: Pyro program for p(x, z) with an outermost data plate.
        guide: Pyro program for q(z | x).
        args: their arguments, N data.
        num_draws: draws for each datum S.
        num_particles: K.
        progress: show a progress bar over data, where there is a terminal to show it.

    Source: Rubin (1988), Using the SIR Algorithm to Simulate Posterior Distributions.
    """
    check_positive_int(num_draws, "num_draws")
    check_positive_int(num_particles, "num_particles")
    size = max(1, MAX_PAIRS // max(num_particles, num_draws))
    plan = plan_particles(model, guide, tuple(arg[:size] for arg in args))
    parts = []
    with tqdm(total=len(args[0]), desc="posterior", unit="datum", disable=None if progress else True) as bar:
        for chunk in zip(*(arg.split(size) for arg in args), strict=True):
            parts.append(_draws_of_chunk(model, guide, chunk, num_draws, num_particles, plan))
            bar.update(len(chunk[0]))

    def join(name: str) -> dict[str, Tensor]:
        return {site: torch.cat([getattr(part, name)[site] for part in parts], 1) for site in getattr(parts[0], name)}

    log_w = torch.cat([part.log_w for part in parts], 1)
    return PosteriorDraws(join("latents"), join("predictive"), join("log_likelihood"), log_w)


def _draws_of_chunk(
    model: Program, guide: Program, args: tuple[Tensor, ...], num_draws: int, num_particles: int, plan: int
) -> PosteriorDraws:
    recorder = _Recorder()
    terms = weight_terms(model, guide, args, num_particles, plan=plan, tracer=recorder)
    log_w = terms.log_w
    lost = log_w.isneginf().all(0)
    if lost.any():
        raise ValueError(
            f"Cannot draw from p(z|x): all weights of datum {int(lost.nonzero()[0])} of a chunk of {len(lost)} are 0. "
            "Leave out the data with log p(x) = -inf."
        )
    chosen = torch.multinomial(log_w.T.softmax(1), num_draws, replacement=True).T  # (S, B)

    def choose(values: Tensor) -> Tensor:
        index = chosen.reshape(*chosen.shape, *[1] * (values.ndim - 2))
        return values.take_along_dim(index, 0)

    drawn = recorder.values(num_particles)
    latents = {name: choose(value) for name, value in drawn.items() if name in terms.prior}
    likelihood = {name: choose(value) for name, value in terms.likelihood.items()}
    return PosteriorDraws(latents, predict(model, args, latents, plan), likelihood, choose(log_w))


class _Recorder:
    """Tracer for ``weight_terms`` that keeps the latents of every run."""

    def __init__(self) -> None:
        self.runs: list[dict[str, Tensor]] = []

    def __call__(self, model: Program, guide: Program, args: tuple[Any, ...]) -> tuple[Trace, Trace]:
        traces = trace_pair(model, guide, args)
        sites = sample_sites(traces[1]).items()
        self.runs.append({name: site["value"] for name, site in sites if not site["is_observed"]})
        return traces

    def values(self, num_particles: int) -> dict[str, Tensor]:
        """Return {site: value, shape (K, B, ...)}."""
        if len(self.runs) == 1 and num_particles > 1:
            return self.runs[0]
        return {name: torch.stack([run[name] for run in self.runs]) for name in self.runs[0]}


def predict(model: Program, args: tuple[Tensor, ...], latents: dict[str, Tensor], plan: int) -> dict[str, Tensor]:
    """Draw the observed sites at given latents.

    Args:
        model: Pyro program for p(x, z).
        args: its arguments; what it observes of them is drawn anew.
        latents: {site: value, shape (S, B, ...)}.
        plan: what ``plan_particles`` found out.

    Returns:
        {site: draw, shape (S, B, ...)}.
    """
    if plan == 0:
        count = len(next(iter(latents.values())))
        runs = [_observed(model, args, {name: value[s] for name, value in latents.items()}) for s in range(count)]
        return {name: torch.stack([run[name] for run in runs]) for name in runs[0]}
    count = len(next(iter(latents.values())))
    with pyro.plate(PARTICLES, count, dim=-1 - plan):
        return _observed(model, args, latents)


def _observed(model: Program, args: tuple[Tensor, ...], latents: dict[str, Tensor]) -> dict[str, Tensor]:
    program = poutine.condition(poutine.uncondition(model), data=latents)
    sites = sample_sites(poutine.trace(program).get_trace(*args))
    return {name: site["value"] for name, site in sites.items() if site["infer"].get("was_observed")}
