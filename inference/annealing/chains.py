"""Annealed importance sampling: weights of p(x) along a path of distributions, moved by Hamiltonian Monte Carlo."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyro_vae.inference.annealing.path import (
    Advance,
    Annealed,
    Annealing,
    AnnealingPath,
    CompiledTarget,
    Tuning,
    schedule,
    start_of,
)
from pyro_vae.inference.annealing.tuning import tune
from pyro_vae.inference.programs.call import Args, Program
from pyro_vae.inference.programs.plates import Plates
from pyro_vae.inference.programs.vectorize import find_plates


@torch.no_grad()
def anneal(
    model: Program,
    guide: Program | None,
    args: Args,
    num_particles: int,
    *,
    settings: Annealing | None = None,
    plates: Plates | None = None,
    tuning: Tuning | None = None,
    advance: Advance | None = None,
    compiled: CompiledTarget | None = None,
) -> Annealed:
    """Return importance weights of p(x_n) from chains annealed from a simple distribution to the posterior.

        log w = sum_t (beta_t - beta_(t-1)) [log f_1(z_(t-1)) - log f_0(z_(t-1))],
        z_0 ~ f_0,   z_t ~ HMC from z_(t-1) on f_0^(1 - beta_t) f_1^beta_t,   t = 1, ..., T

    with f_1 = p(x, z), f_0 the prior p(z) or the guide q(z|x), and sigmoid inverse temperatures. Each weight is
    unbiased, E[w] = p(x), whatever the number of temperatures; log mean_k w_k is therefore a stochastic lower bound
    of log p(x), which closes as temperatures are added.

    That holds for transitions fixed beforehand: step sizes adapted within a run would depend on its chains and
    bias its weights. So they are adapted to an acceptance of 0.65, for each datum and along the path, in a pilot
    run of ``num_pilot`` chains that are thrown away, and then frozen.

    All chains are in memory at once: a small multiple of K B D numbers, and what the programs need for a gradient
    with K particles. Hand in chunks of data. Draws come from the global generator.

    Args:
        model: Pyro program for p(x, z).
        guide: Pyro program for q(z | x); never run, and may be None, where the start is the prior.
        args: their arguments, B data, tensors of shape (B, *event).
        num_particles: chains K for each datum.
        settings: numbers of temperatures and leapfrog steps, and the start.
        plates: how the programs' plates lie, and how particles run; found out if None, see ``find_plates``.
        tuning: what ``tune`` returned for the same data; found out in a pilot run if not given.
        advance: called with K B after each temperature, T times, for a progress bar.
        compiled: the path's target compiled, used where chains and data have its shape.

    Raises:
        ValueError: for discrete, improper or point-mass latents, and programs that ``log_weights`` refuses.

    Source: Neal (2001), Annealed Importance Sampling; for decoders, Wu, Burda, Salakhutdinov and Grosse (2017), On
    the Quantitative Analysis of Decoder-Based Generative Models.
    """
    settings = settings or Annealing()
    plates = find_plates(model, start_of(guide, settings), args) if plates is None else plates
    tuning = tune(model, guide, args, settings=settings, plates=plates) if tuning is None else tuning
    path = AnnealingPath(model, guide, args, num_particles, settings, plates, compiled)
    annealed = path.follow(path.start, schedule(settings.num_temperatures), tuning, advance)
    return Annealed(annealed.log_w.where(~path.space.lost, -math.inf), annealed.acceptance)


@torch.no_grad()
def anneal_back(
    model: Program,
    guide: Program | None,
    args: Args,
    latents: dict[str, Tensor],
    num_particles: int,
    *,
    settings: Annealing,
    tuning: Tuning,
    plates: Plates | None = None,
    advance: Advance | None = None,
) -> Annealed:
    """Return weights of chains annealed backwards, from a draw of the posterior to where ``anneal`` starts.

    The transitions are reversible, so that the weights, defined as in ``anneal``, now have E[1/w] = 1/p(x), and
    -log mean_k 1/w_k is a stochastic upper bound of log p(x).

    Args:
        model: Pyro program for p(x, z).
        guide: Pyro program for q(z | x); may be None where ``anneal`` starts at the prior.
        args: their arguments, B data, tensors of shape (B, *event).
        latents: {site: z_n ~ p(z | x_n), shape (B, ...)}, as ``simulate`` returns them.
        num_particles: chains K for each datum, all from the same draw.
        settings: numbers of temperatures and leapfrog steps, and the start.
        tuning: what ``tune`` returned; it must not have seen these latents.
        plates: how the programs' plates lie, and how particles run; found out if None, see ``find_plates``.
        advance: called with K B after each temperature, T times, for a progress bar.

    Source: Grosse, Ghahramani and Adams (2015), section 4.
    """
    path = AnnealingPath(model, guide, args, num_particles, settings, plates)
    start = path.space.inverse(latents).expand(path.start.shape)
    return path.follow(start, schedule(settings.num_temperatures)[::-1], tuning, advance)
