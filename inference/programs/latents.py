"""Latent sites: their values, taken from a run, given to a run and scored there; their KL, dimension by dimension."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from pyro import poutine
from pyro.distributions import ExpandedDistribution, MaskedDistribution
from pyro.poutine.messenger import Messenger
from pyro.poutine.trace_struct import Trace
from torch import Tensor
from torch.distributions import Independent, kl_divergence

from pyro_vae.inference.programs.call import Args, Program
from pyro_vae.inference.programs.plates import Plates
from pyro_vae.inference.programs.sites import SUMMED, Site, distribution_mask, event_dim, is_delta
from pyro_vae.inference.programs.summed import run_model
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
    return {name: terms.by_datum(site["value"], event_dim(site)) for name, site in sites.items()}


class Given(Messenger):
    """Handler that gives latent sites their values.

    Args:
        latents: {site: value, shape (K, B, *inner plates, *event)}, as ``latent_values`` returns them.
        plates: how the programs' plates lie, and how particles run.
    """

    def __init__(self, latents: dict[str, Tensor], plates: Plates) -> None:
        super().__init__()
        self.latents, self.plates = latents, plates

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.latents and not msg["is_observed"]:
            msg["value"] = self.plates.as_run(self.latents[msg["name"]], event_dim(msg))
            msg["done"] = True


def terms_at(
    model: Program, guide: Program, args: Args, latents: dict[str, Tensor], plates: Plates, *, score_guide: bool
) -> WeightTerms:
    """Return the terms at given latents of shape (B, ...), K = 1; without ``score_guide``, log q is that of a draw.

    Raises:
        ValueError: if the guide cannot score a value that it did not draw.
    """

    def tracer(model: Program, guide: Program, args: Args) -> tuple[Trace, Trace]:
        at = Given({name: value[None] for name, value in latents.items()}, plates.single)
        guide_trace = guide_at(guide, args, at) if score_guide else scored(poutine.trace(guide).get_trace(*args))
        at.latents = {name: value for name, value in at.latents.items() if name in guide_trace.nodes}
        return run_model(at(model), args, guide_trace.nodes), guide_trace

    return weight_terms(model, guide, args, 1, plates=plates, tracer=tracer)


def guide_at(guide: Program, args: Args, at: Given) -> Trace:
    """Return the guide's trace, scored at given latents.

    Raises:
        ValueError: if the guide cannot score a value that it did not draw.
    """
    with refusing_unscorable("Use sbc, which wants draws alone."):
        return scored(poutine.trace(at(guide)).get_trace(*args))


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
    if site.get(SUMMED):
        raise ValueError(
            f"Expected latent site {site['name']!r} to depend on no latent that is summed out. Use another objective."
        )
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
            return closed_kl(q, p)
        except NotImplementedError:
            pass
    return q.log_prob(site["value"]) - p.log_prob(site["value"])


def closed_kl(q: Any, p: Any) -> Tensor:
    """Return KL(q || p) in closed form, the batch shapes of the two broadcast, which torch's own does for few.

    Raises:
        NotImplementedError: if torch has none.
    """
    shape = torch.broadcast_shapes(q.batch_shape, p.batch_shape)
    return kl_divergence(*(d if d.batch_shape == shape else d.expand(shape) for d in (q, p)))


def refuse_point_mass(terms: WeightTerms) -> None:
    """Refuse a guide's point mass, whose KL from a prior that has a density is infinite, with a ``ValueError``."""
    if set(terms.guide) != set(terms.prior):  # of auxiliary sites, whose density it carries
        return
    for name in terms.prior:
        if is_delta(terms.guide_sites[name]) and not is_delta(terms.model_sites[name]):
            raise ValueError(
                f"Guide site {name!r} is a point mass, which has no density, so that its KL is infinite. Ask for the "
                "reconstruction, or use a guide that has a spread."
            )


def refuse_masked(terms: WeightTerms, why: str, read: bool = True) -> None:
    """Refuse a latent site that is masked, in either program, by ``poutine.mask`` or by ``.mask`` of its distribution.

    Args:
        terms: of the pair.
        why: what the site cannot have, to end a sentence.
        read: let a mask pass that is true everywhere, whose values are then read.
    """
    for name in terms.prior:
        for site in (terms.guide_sites[name], terms.model_sites[name]):
            if any(_hides(mask, read) for mask in (site["mask"], distribution_mask(site["fn"]))):
                raise ValueError(
                    f"Expected no mask at latent site {name!r}: {why}. Leave out the data where it is masked."
                )


def _hides(mask: Any, read: bool) -> bool:
    if isinstance(mask, Tensor):
        return not (read and bool(mask.all()))
    return mask is not None and mask is not True


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
