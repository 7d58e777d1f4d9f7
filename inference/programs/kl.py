"""Latent sites one dimension at a time, where guide and prior factorise over them."""

from __future__ import annotations

from typing import Any

from pyro.distributions import ExpandedDistribution, MaskedDistribution
from torch import Tensor
from torch.distributions import Independent, kl_divergence

from pyro_vae.inference.programs.structure import Site


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


def in_one_order(terms: Any) -> bool:
    """Say whether guide and model draw their latents in one order, without which no closed KL holds site by site."""
    return list(terms.prior) == list(terms.guide)
