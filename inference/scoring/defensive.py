"""Importance weights under a mixture of guide and prior."""

from __future__ import annotations

import math

import torch
from pyro import poutine
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyro_vae.inference.programs.call import Program, unvalidated
from pyro_vae.inference.programs.structure import PARTICLES, Site, sample_sites
from pyro_vae.inference.programs.vectorize import scored
from pyro_vae.inference.programs.weights import weight_terms
from pyro_vae.inference.scoring.base import Args


def defensive_log_weights(
    model: Program, guide: Program, args: Args, num_particles: int, share: float, *, plan: int | None
) -> Tensor:
    """Return log weights of draws from (1 - alpha) q(z|x) + alpha p(z), shape (K, B), in nats.

        log w = log p(x|z) + log p(z) - log[(1 - alpha) q(z|x) + alpha p(z)]

    All latents of a particle and datum come from the one or from the other.

    Args:
        model: Pyro program for p(x, z).
        guide: Pyro program for q(z | x).
        args: their arguments.
        num_particles: K.
        share: alpha.
        plan: as in ``weight_terms``.

    Source: Hesterberg (1995), Weighted Average Importance Sampling and Defensive Mixture Distributions.
    """

    def tracer(model: Program, guide: Program, args: Args) -> tuple[Trace, Trace]:
        return _trace_mixture(model, guide, args, share)

    terms = weight_terms(model, guide, args, num_particles, plan=plan, tracer=tracer)
    log_p = torch.stack(list(terms.prior.values())).sum(0)
    log_q = terms.log_q.nan_to_num(-math.inf, math.inf, -math.inf)  # a draw of the prior may be none of the guide's
    log_q = torch.logaddexp(math.log1p(-share) + log_q, math.log(share) + log_p)
    return torch.stack(list(terms.likelihood.values())).sum(0) + log_p - log_q


def _trace_mixture(model: Program, guide: Program, args: Args, share: float) -> tuple[Trace, Trace]:
    """Draw each particle's latents from guide or prior, and score them under both programs."""
    drawn = poutine.util.prune_subsample_sites(poutine.trace(guide).get_trace(*args))
    prior = sample_sites(poutine.trace(model).get_trace(*args))
    mixed, from_prior = drawn.copy(), None
    for name, site in sample_sites(drawn).items():
        if site["is_observed"]:
            continue
        if name not in prior:
            raise ValueError(f"Expected no auxiliary site in the guide for a defensive mixture; got {name!r}.")
        if from_prior is None:
            from_prior = torch.rand(_particles_and_data(site), device=site["value"].device) < share
        chosen = from_prior.reshape(*from_prior.shape, *[1] * (site["value"].ndim - from_prior.ndim))
        mixed.nodes[name] = {**site, "value": torch.where(chosen, prior[name]["value"], site["value"])}
    with unvalidated():
        return tuple(scored(poutine.trace(poutine.replay(p, trace=mixed)).get_trace(*args)) for p in (model, guide))


def _particles_and_data(site: Site) -> torch.Size:
    """Return the part of a latent value's shape that counts particles and data, (K, B) or (B,)."""
    frames = [frame for frame in site["cond_indep_stack"] if frame.vectorized]
    data = min(frame.dim for frame in frames if frame.name != PARTICLES)
    event = len(site["fn"].event_shape)
    return site["value"].shape[: site["value"].ndim - event + data + 1]
