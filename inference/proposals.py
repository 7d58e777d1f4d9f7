"""Whether a guide can serve as a proposal: importance weights need a density that covers the prior's support."""

from __future__ import annotations

import warnings

import torch
from pyro import poutine
from torch import Tensor

from pyro_vae.inference.programs import Program, fork_rng
from pyro_vae.inference.structure import Site, is_delta, sample_sites
from pyro_vae.inference.vectorize import trace_pair


@torch.no_grad()
def check_proposal(model: Program, guide: Program, args: tuple[Tensor, ...]) -> None:
    """Refuse a point mass as a proposal, and warn of a guide that cannot reach what the prior can.

    Neither shows in the weights: those of a point mass are all equal, and those of a guide on half the prior's
    support miss the other half at every K, so that neither ESS nor k-hat would say a word.

    Raises:
        ValueError: if a latent site of the guide is a Delta and the model's is not, unless the Delta carries the
            density of auxiliary sites, as in Pyro's AutoGuides.
    """
    with poutine.block(), fork_rng(args[0].device):
        model_trace, guide_trace = trace_pair(model, guide, args)
    guide_sites = sample_sites(guide_trace)
    if any(site["infer"].get("is_auxiliary") for site in guide_sites.values()):
        return
    for name, site in sample_sites(model_trace).items():
        if site["is_observed"]:
            continue
        if is_delta(guide_sites[name]) and not is_delta(site):
            raise ValueError(
                f"Guide site {name!r} is a point mass, which has no density: log p(x) cannot be estimated with it. "
                "Score with a guide that has a spread, such as a normal around the point."
            )
        _warn_of_a_narrower_support(name, site, guide_sites[name])


def _warn_of_a_narrower_support(name: str, site: Site, guide_site: Site) -> None:
    with fork_rng(site["value"].device):
        draws = site["fn"].sample((64,)) if not site["fn"].batch_shape else site["fn"].sample()
    try:
        reached = guide_site["fn"].support.check(draws)
    except (NotImplementedError, RuntimeError, ValueError):  # no support declared, or not one to broadcast with
        return
    if not reached.all():
        warnings.warn(
            f"The guide cannot reach values of {name!r} that the prior can: outside its support log p(x) is missed "
            "at every K, and no diagnostic shows it.",
            stacklevel=3,
        )
