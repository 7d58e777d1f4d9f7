"""Draws from the posterior p(z|x) of each datum by resampling weighted draws of the guide, and what is missing of x."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from pyro import poutine
from torch import Tensor

from pyro_vae.core.checks import check_positive_int
from pyro_vae.inference.programs.call import Args, Program, check_data
from pyro_vae.inference.programs.latents import Given, latent_values
from pyro_vae.inference.programs.loop import (
    data_at_once,
    evaluation_on_device,
    particle_terms,
    split_data_with_bar,
    whole_if_tied,
)
from pyro_vae.inference.programs.plates import Plates
from pyro_vae.inference.programs.sites import event_dim, sample_sites
from pyro_vae.inference.programs.vectorize import find_plates, particles_beside
from pyro_vae.inference.programs.weights import refuse_summed

MAX_PAIRS = 10_000
"""Largest number of (particle, datum) pairs in memory at once, beside the draws that are kept."""


class Resampler:
    """R draws of each datum's posterior, kept while chunks of K weighted particles pass.

    After a chunk each draw is replaced by one of the chunk's with probability sum of its weights / sum of all so far,
    so that in the end every draw is particle k with probability w_k / sum w. Memory: R latents a datum, never K.

    Args:
        num_draws: R.
        num_data: B.

    Source: Rubin (1988), Using the SIR Algorithm to Simulate Posterior Distributions; streamed as weighted reservoir
    sampling, Chao (1982).
    """

    def __init__(self, num_draws: int, num_data: int) -> None:
        self.num_draws = num_draws
        self.log_sum = torch.full((num_data,), -math.inf, dtype=torch.float64)
        self.latents: dict[str, Tensor] = {}
        """{site: draws, shape (R, B, ...)}."""

    def add(self, log_w: Tensor, values: dict[str, Tensor]) -> None:
        """Take in a chunk: log weights, shape (k, B), and {site: value, shape (k, B, ...)}."""
        log_w = log_w.double()
        possible = log_w.amax(0) > -math.inf
        chunk = log_w.logsumexp(0)
        self.log_sum = torch.logaddexp(self.log_sum.to(chunk.device), chunk)
        share = torch.where(possible, (chunk - self.log_sum).exp(), 0)
        weights = torch.where(possible, log_w.softmax(0), 1.0).T
        chosen = _draw_particles(weights, self.num_draws)
        kept = torch.rand(chosen.shape, dtype=share.dtype, device=share.device) >= share
        for name, value in values.items():
            fresh = _take(value, chosen)
            before = self.latents.get(name, fresh)
            self.latents[name] = torch.where(_widened(kept, value.ndim), before, fresh)


def _draw_particles(weights: Tensor, num_draws: int) -> Tensor:
    """Return the numbers of R particles of each datum, drawn by weights of shape (B, K) with replacement: (R, B)."""
    return torch.multinomial(weights, num_draws, replacement=True).T


def _take(values: Tensor, chosen: Tensor) -> Tensor:
    """Return the values (K, B, ...) of the particles that are chosen, (R, B): shape (R, B, ...)."""
    return values.take_along_dim(_widened(chosen, values.ndim), 0)


def _widened(index: Tensor, ndim: int) -> Tensor:
    """Return a tensor (R, B) with ``ndim`` dimensions, the further ones of size 1."""
    return index.reshape(*index.shape, *[1] * (ndim - index.ndim))


@dataclass(frozen=True)
class PosteriorDraws:
    """Draws of p(z|x_n) and of data that they predict.

    Attributes:
        latents: {site: z, shape (S, N, ...)}.
        predictive: {site: x drawn from p(x|z), shape (S, N, ...)}.
        log_w: log weights of the draws before they were resampled, shape (S, N), in nats.
    """

    latents: dict[str, Tensor]
    predictive: dict[str, Tensor]
    log_w: Tensor


@torch.no_grad()
def posterior_draws(
    model: Program,
    guide: Program,
    args: Args,
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
        model: Pyro program for p(x, z) with all sites in a data plate.
        guide: Pyro program for q(z | x).
        args: their arguments, N data.
        num_draws: draws for each datum S.
        num_particles: K.
        progress: show a progress bar over data, where there is a terminal to show it.

    Source: Rubin (1988), Using the SIR Algorithm to Simulate Posterior Distributions.
    """
    check_positive_int(num_draws, "num_draws")
    check_positive_int(num_particles, "num_particles")
    size = data_at_once(len(args[0]), max(num_particles, num_draws), MAX_PAIRS, together=True)
    size = whole_if_tied(model, guide, args, size)
    plates = find_plates(model, guide, tuple(arg[:size] for arg in args))
    chunks = split_data_with_bar(args, size, "posterior", progress)
    parts = [_draws_of_chunk(model, guide, chunk, num_draws, num_particles, plates) for chunk in chunks]

    def join(name: str) -> dict[str, Tensor]:
        return {site: torch.cat([getattr(part, name)[site] for part in parts], 1) for site in getattr(parts[0], name)}

    log_w = torch.cat([part.log_w for part in parts], 1)
    return PosteriorDraws(join("latents"), join("predictive"), log_w)


def _draws_of_chunk(
    model: Program, guide: Program, args: Args, num_draws: int, num_particles: int, plates: Plates
) -> PosteriorDraws:
    chunks = list(particle_terms(model, guide, args, num_particles, num_particles * len(args[0]), plates))
    refuse_summed(chunks[0])
    log_w = torch.cat([terms.log_w for terms in chunks])
    lost = log_w.isneginf().all(0)
    if lost.any():
        raise ValueError(
            f"Cannot draw from p(z|x): all weights of datum {int(lost.nonzero()[0])} of a chunk of {len(lost)} are 0. "
            "Leave out the data with log p(x) = -inf."
        )
    chosen = _draw_particles(log_w.T.softmax(1), num_draws)

    parts = [latent_values(terms) for terms in chunks]
    latents = {name: _take(torch.cat([part[name] for part in parts]), chosen) for name in parts[0]}
    return PosteriorDraws(latents, predict(model, args, latents, plates), _take(log_w, chosen))


def predict(model: Program, args: Args, latents: dict[str, Tensor], plates: Plates) -> dict[str, Tensor]:
    """Draw the observed sites at given latents.

    Args:
        model: Pyro program for p(x, z).
        args: its arguments; what it observes of them is drawn anew.
        latents: {site: value, shape (S, B, *inner plates, *event)}.
        plates: how the programs' plates lie, and how particles run; see ``find_plates``.

    Returns:
        {site: draw, shape (S, B, *inner plates, *event)}.
    """
    count = len(next(iter(latents.values())))
    if not plates.together:
        parts = [{name: value[s : s + 1] for name, value in latents.items()} for s in range(count)]
        runs = [_observed(model, args, part, plates, len(args[0])) for part in parts]
        return {name: torch.cat([run[name] for run in runs]) for name in runs[0]}
    with particles_beside(plates, count, args) as many:
        return _observed(model, many, latents, plates, len(args[0]))


def _observed(
    model: Program, args: Args, latents: dict[str, Tensor], plates: Plates, num_data: int
) -> dict[str, Tensor]:
    sites = sample_sites(poutine.trace(Given(latents, plates)(poutine.uncondition(model))).get_trace(*args))
    drawn = {name: site for name, site in sites.items() if site["infer"].get("was_observed")}
    return {name: plates.by_datum(site["value"], event_dim(site), num_data) for name, site in drawn.items()}


def impute(
    model: Program,
    guide: Program,
    x: Tensor,
    num_draws: int = 100,
    *,
    num_particles: int = 1000,
    seed: int = 0,
    device: str | torch.device = "auto",
    progress: bool = True,
) -> Tensor:
    """Draw the missing entries of x from p(x_mis | x_obs), several times: multiple imputation.

        z_k ~ q(z | x_obs),   resampled with weights w_k = p(x_obs, z_k) / q(z_k | x_obs),   x_mis ~ p(x_mis | z)

    As K grows the draws follow the model's conditional, whatever the guide. Their spread is that of prediction
    for one entry; means over draws are point imputations. The model must leave NaN out of its likelihood and
    accept it in a ``check_data`` of its own, as ``VAE(..., missing=True)`` does, entries missing at random.

    The log score of held-out entries needs no draws: log p(x_mis | x_obs) = log p(x_mis, x_obs) - log p(x_obs), the
    difference of two ``evidence`` calls.

    Args:
        model: Pyro program for p(x, z) with one observed site, all sites in a data plate.
        guide: Pyro program for q(z | x).
        x: data, shape (N, *event), NaN where missing.
        num_draws: draws S.
        num_particles: K.
        seed: seed of the draws; the global generator is left as it was.
        device: "auto" (a GPU where there is one), or a torch device.
        progress: show a progress bar, where there is a terminal to show it.

    Returns:
        completed data, shape (S, N, *event); observed entries are as they were in each draw.

    Raises:
        ValueError: if the model has several observed sites, or another shape of data than x.

    Source: Mattei and Frellsen (2019), MIWAE: Deep Generative Modelling and Imputation of Incomplete Data Sets,
    section 3.
    """
    check_positive_int(num_draws, "num_draws")
    check_data(model, x, guide=guide)
    with evaluation_on_device(model, guide, x, seed, device) as args:
        drawn = posterior_draws(model, guide, args, num_draws, num_particles, progress=progress).predictive
    if len(drawn) != 1:
        raise ValueError(f"Expected a model with one observed site to impute; it has {list(drawn)}.")
    (draws,) = drawn.values()
    if draws[0].numel() != x.numel():
        raise ValueError(f"Expected a model that observes x, {tuple(x.shape)}; its site has {tuple(draws[0].shape)}.")
    return torch.where(args[0].isnan(), draws.reshape(num_draws, *x.shape), args[0]).to(x.device)
