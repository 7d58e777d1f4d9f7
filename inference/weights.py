"""Per-datum log importance weights of any Pyro program: the one quantity that everything else is a function of."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine.messenger import Messenger
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import prune_subsample_sites, site_is_subsample
from torch import Tensor

from pyro_vae._checks import check_positive_int

Program = Callable[..., Any]
"""A Pyro model or guide: a function or a module that calls ``pyro.sample``."""
Data = Tensor | tuple[Tensor, ...]
"""x, shape (N, *event); or a tuple of tensors with the data first in each, passed as separate arguments."""

PARTICLES = "_pyro_vae_particles"
Site = dict[str, Any]


def as_args(x: Data) -> tuple[Tensor, ...]:
    """Return the positional arguments that a program is called with."""
    return x if isinstance(x, tuple) else (x,)


class KLWeight(Messenger):
    """Handler that weights log p(z) - log q(z|x) by beta at every latent site of a model or guide.

    Pyro's own objectives see it as the site's scale; ``log_weights`` ignores scales and reads it by name.

    Args:
        beta: the weight, 1 for the plain bound.
    """

    def __init__(self, beta: float = 1.0) -> None:
        super().__init__()
        self.beta = beta

    def _pyro_sample(self, msg: Any) -> None:
        if not msg["is_observed"] and not site_is_subsample(msg):
            msg["scale"] = msg["scale"] * self.beta
            msg["kl_weight"] = msg.get("kl_weight", 1.0) * self.beta


@dataclass(frozen=True)
class WeightTerms:
    """The terms of log w, site by site, each of shape (K, B), in nats.

    Attributes:
        likelihood: log p(x | z) of each observed site.
        prior: log p(z) of each latent site of the model.
        guide: log q(z | x) of each site of the guide.
        guide_trace: the guide's trace, for the distributions and values behind the terms.
    """

    likelihood: dict[str, Tensor]
    prior: dict[str, Tensor]
    guide: dict[str, Tensor]
    guide_trace: Trace

    @property
    def log_w(self) -> Tensor:
        """Log importance weights, the sum of the terms, shape (K, B)."""
        plus = [*self.likelihood.values(), *self.prior.values()]
        return reduce(add, plus) - reduce(add, self.guide.values())


def log_weights(model: Program, guide: Program, x: Data, num_particles: int = 1) -> Tensor:
    """Return the unscaled log importance weights, one for each particle and datum.

        log w[k, n] = log p(x_n, z_kn) - log q(z_kn | x_n),   z_kn ~ q(z | x_n)

    The guide is traced, the model replayed against it, and ``log_prob`` summed over event dimensions and over
    every plate except particles and data: never over data. Scales of plates and of ``poutine.scale`` are left
    out, since a scaled weight is none; masks are kept. Gradients flow to every parameter.

    Args:
        model: Pyro program for p(x, z), called as ``model(x)``; its data plate is vectorised and outermost.
        guide: Pyro program for q(z | x), called with the same arguments.
        x: data, shape (B, *event), or a tuple of such tensors.
        num_particles: K.

    Returns:
        log w in nats, shape (K, B).

    Raises:
        ValueError: if a sample site is outside the data plate or crosses it, if model and guide disagree on
            their latent sites, or if K < 1.
    """
    return weight_terms(model, guide, x, num_particles).log_w


def weight_terms(
    model: Program, guide: Program, x: Data, num_particles: int = 1, *, plate_nesting: int | None = None
) -> WeightTerms:
    """Return the terms of ``log_weights``, kept apart by site.

    Args:
        model: as in ``log_weights``.
        guide: as in ``log_weights``.
        x: as in ``log_weights``.
        num_particles: K.
        plate_nesting: number of batch dimensions that the programs' own plates use, counted by one extra run
            where K > 1 and it is not given.
    """
    check_positive_int(num_particles, "num_particles")
    args = as_args(x)
    if num_particles > 1 and plate_nesting is None:
        plate_nesting = count_plates(model, guide, x)
    particles = (
        pyro.plate(PARTICLES, num_particles, dim=-1 - plate_nesting) if plate_nesting and num_particles > 1 else None
    )
    model_trace, guide_trace = trace_pair(model, guide, args, particles)
    depth = _data_plate_depth(model_trace, guide_trace)
    _check_same_latents(model_trace, guide_trace)

    def terms(sites: dict[str, Site]) -> dict[str, Tensor]:
        return {name: _per_datum(site, depth, args[0].shape[0]) for name, site in sites.items()}

    sites = _sample_sites(model_trace)
    observed = {name: site for name, site in sites.items() if site["is_observed"]}
    latent = {name: site for name, site in sites.items() if not site["is_observed"]}
    return WeightTerms(terms(observed), terms(latent), terms(_sample_sites(guide_trace)), guide_trace)


def count_plates(model: Program, guide: Program, x: Data) -> int:
    """Count the batch dimensions that the programs' plates use, by one run without gradient."""
    with torch.no_grad(), poutine.block():
        traces = trace_pair(model, guide, as_args(x))
    return _data_plate_depth(*traces)


def trace_pair(model: Program, guide: Program, args: tuple[Any, ...], particles: Any = None) -> tuple[Trace, Trace]:
    """Trace the guide, replay the model against it, and score every site; returns (model, guide) traces."""
    with particles or nullcontext():
        guide_trace = poutine.trace(guide).get_trace(*args)
        model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*args)
    traces = prune_subsample_sites(model_trace), prune_subsample_sites(guide_trace)
    for trace in traces:
        trace.compute_log_prob()
    return traces


def _sample_sites(trace: Trace) -> dict[str, Site]:
    """Return the sites that are scored: those of ``pyro.deterministic`` are not."""
    return {
        name: site
        for name, site in trace.nodes.items()
        if site["type"] == "sample" and not site["infer"].get("_deterministic")
    }


def _plate_dims(site: Site) -> dict[int, str]:
    frames = site["cond_indep_stack"]
    return {frame.dim: frame.name for frame in frames if frame.vectorized and frame.name != PARTICLES}


def _data_plate_depth(model_trace: Trace, guide_trace: Trace) -> int:
    """Return d where the data plate is batch dimension -d; refuse a site that is not inside it."""
    sites = [
        (program, name, _plate_dims(site))
        for program, trace in (("guide", guide_trace), ("model", model_trace))
        for name, site in _sample_sites(trace).items()
    ]
    if not any(dims for *_, dims in sites):
        raise ValueError(
            "Expected the data inside a vectorised plate; model and guide have none. "
            'Put every sample site inside `with pyro.plate("data", x.shape[0]):`.'
        )
    outermost, plate = min((dim, name) for *_, dims in sites for dim, name in dims.items())
    for program, name, dims in sites:
        if dims.get(outermost) != plate:
            raise ValueError(
                f"Site {name!r} of the {program} is outside the data plate {plate!r}, the outermost one "
                f"(dim={outermost}): its log weight would be shared by all data. Put it inside that plate, "
                "make it a parameter, or give the data plate the leftmost dim, dim=-2 around an inner plate of dim=-1."
            )
    return -outermost


def _check_same_latents(model_trace: Trace, guide_trace: Trace) -> None:
    """Refuse a latent site that only one of the programs has: its weight would be wrong in silence."""
    model_sites, guide_sites = _sample_sites(model_trace), _sample_sites(guide_trace)
    for name, site in model_sites.items():
        if not site["is_observed"] and name not in guide_sites:
            raise ValueError(
                f"Latent site {name!r} of the model is not in the guide. Sample it in the guide under the same "
                "name, or sum it out with pyro.infer.TraceEnum_ELBO if it is discrete."
            )
    for name, site in guide_sites.items():
        latent = name in model_sites and not model_sites[name]["is_observed"]
        if not latent and not site["is_observed"] and not site["infer"].get("is_auxiliary"):
            raise ValueError(f"Site {name!r} of the guide is no latent site of the model. Use the same name in both.")


def _per_datum(site: Site, depth: int, num_data: int) -> Tensor:
    """Sum a site's unscaled log_prob over all plates inside the data plate: (K, B)."""
    log_prob = scale_and_mask(site["unscaled_log_prob"], mask=site["mask"])
    if log_prob.ndim < depth or log_prob.shape[-depth] != num_data:
        raise ValueError(
            f"Expected one log_prob for each of the {num_data} data at site {site['name']!r}; got batch shape "
            f"{tuple(log_prob.shape)} where the data plate is dimension -{depth}. "
            "Is the data plate the outermost one, with x.shape[0] as its size?"
        )
    particles = log_prob.shape[0] if log_prob.ndim > depth else 1
    return site.get("kl_weight", 1.0) * log_prob.reshape(particles, num_data, -1).sum(-1)
