"""Latent sites one dimension at a time, where guide and prior factorise over them."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.distributions import Independent, kl_divergence

from pyro_vae.inference.structure import Site


def marginals(site: Site, who: str) -> Any:
    """Return the one-dimensional distributions of a site, batch shape (..., D).

    Raises:
        ValueError: if the site's distribution does not factorise over its event.
    """
    fn = site["fn"]
    while hasattr(fn, "base_dist") and not isinstance(fn, Independent):
        fn = fn.base_dist  # Pyro's masks and expansions
    if not isinstance(fn, Independent) or fn.base_dist.event_shape:
        raise ValueError(
            f"Expected {who} at latent site {site['name']!r} to factorise over dimensions, as "
            f'dist.Normal(...).to_event(1) does; got {type(site["fn"]).__name__}. Use per="site" or another objective.'
        )
    return fn.base_dist


def kl_by_dimension(site: Site, prior: Site) -> Tensor:
    """Return KL(q(z_j | x) || p(z_j)) for each dimension, shape (K, B, D) or (B, D): closed, or log q - log p at z."""
    q, p = marginals(site, "the guide"), marginals(prior, "the prior")
    try:
        return kl_divergence(q, p)
    except NotImplementedError:
        return q.log_prob(site["value"]) - p.log_prob(site["value"])
