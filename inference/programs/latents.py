"""Latent sites: their values, taken from a run, given to a run and scored there; their KL, dimension by dimension."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from pyro import poutine
from pyro.distributions import ExpandedDistribution, MaskedDistribution
from pyro.poutine.trace_struct import Trace
from torch import Tensor
from torch.distributions import Independent, kl_divergence

from pyro_vae.inference.programs.call import Args, Program
from pyro_vae.inference.programs.joint import particles_of
from pyro_vae.inference.programs.structure import Site
from pyro_vae.inference.programs.vectorize import scored
from pyro_vae.inference.programs.weights import WeightTerms, weight_terms


def latent_values(terms: WeightTerms) -> dict[str, Tensor]:
    """Return {site: value, shape (K, B, *plates, *event)} of the model's latent sites, drawn by the guide.

    Raises:
        ValueError: if there is no latent site.
    """
    if not terms.prior:
        raise ValueError("Expected programs with latent sites; there is none.")
    sites = {name: terms.guide_sites[name] for name in terms.prior}
    if particles_of(sites) is not None:
        return {name: site["value"][None, None] for name, site in sites.items()}
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

    def tracer(model: Program, guide: Program, args: Args) -> tuple[Trace, Trace]:
        guide_trace = guide_at(guide, args, latents) if score_guide else scored(poutine.trace(guide).get_trace(*args))
        return scored(poutine.trace(poutine.replay(model, trace=given(latents))).get_trace(*args)), guide_trace

    return weight_terms(model, guide, args, 1, tracer=tracer)


def guide_at(guide: Program, args: Args, latents: dict[str, Tensor]) -> Trace:
    """Return the guide's trace, scored at given latents.

    Raises:
        ValueError: if the guide cannot score a value that it did not draw.
    """
    with refusing_unscorable("Use sbc, which wants draws alone."):
        return scored(poutine.trace(poutine.replay(guide, trace=given(latents))).get_trace(*args))


@contextmanager
def refusing_unscorable(advice: str) -> Iterator[None]:
    """Say plainly that a guide cannot score a value which it did not draw, where Pyro raises something else.

    Args:
        advice: what to do instead, a sentence.

    Raises:
        ValueError: in the place of what torch's and Pyro's flows without an inverse raise.
    """
    try:
        yield
    except (KeyError, NotImplementedError) as error:
        raise ValueError(
            "The guide cannot score a value that it did not just draw, as a flow without an inverse. " + advice
        ) from error


def marginals(site: Site, who: str) -> Any:
    """Return the one-dimensional distributions of a site, batch shape (..., D).

    Raises:
        ValueError: if the site's distribution does not factorise over its event, or is masked.
    """
    fn = site["fn"]
    while isinstance(fn, ExpandedDistribution):
        fn = fn.base_dist
    if site["mask"] is not None or isinstance(fn, MaskedDistribution):
        raise ValueError(f"Expected no mask at latent site {site['name']!r}. Use another objective.")
    if not fn.event_shape:
        return fn
    if not isinstance(fn, Independent) or fn.base_dist.event_shape:
        raise ValueError(
            f"Expected {who} at latent site {site['name']!r} to factorise over dimensions, as "
            f'dist.Normal(...).to_event(1) does; got {type(fn).__name__}. Use per="site" or another objective.'
        )
    return fn.base_dist


def kl_by_dimension(site: Site, prior: Site, closed: bool) -> Tensor:
    """Return KL(q(z_j | x) || p(z_j)) of each entry of a site, batch shape and event shape in one.

    Args:
        site: the guide's site.
        prior: the model's site.
        closed: take the closed form where torch has one; log q - log p at z otherwise.
    """
    q, p = marginals(site, "the guide"), marginals(prior, "the prior")
    if closed:
        try:
            return kl_divergence(q, p)
        except NotImplementedError:
            pass
    return q.log_prob(site["value"]) - p.log_prob(site["value"])


def in_one_order(terms: WeightTerms) -> bool:
    """Say whether guide and model draw their latents in one order, without which no closed KL holds site by site."""
    return list(terms.prior) == list(terms.guide)


def unit_labels(name: str, shape: torch.Size) -> list[str]:
    """Name the entries of a site: "z" for a single one, "z[0]", "z[1]", ... or "z[0, 1]", ... for several."""
    if shape.numel() == 1:
        return [name]
    return [f"{name}[{', '.join(map(str, index))}]" for index in np.ndindex(*shape)]


def listed(labels: list[str], most: int = 6) -> str:
    """Join labels, the first few of many."""
    return ", ".join(labels[:most]) + (f" and {len(labels) - most} more" if len(labels) > most else "")
