"""Whether a guide can serve as a proposal: importance weights need a density that covers the prior's support."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from pyro import poutine
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor

from pyro_vae.core.checks import describe_support
from pyro_vae.inference.programs.call import Args, Program, fork_rng
from pyro_vae.inference.programs.sites import Site, distribution_name, is_delta, sample_sites, support_of
from pyro_vae.inference.programs.structure import check_measure
from pyro_vae.inference.programs.trial import trial


@torch.no_grad()
def check_proposal(model: Program, guide: Program, args: Args) -> None:
    """Refuse a guide that cannot be a proposal, and warn of one that cannot reach what the prior can.

    Neither shows in the weights: those of a point mass are all equal, and those of a guide on half the prior's
    support miss the other half at every K, so that neither ESS nor k-hat shows it.

    Raises:
        ValueError: if a latent site of the guide is a Delta and the model's is not, unless the Delta carries the
            density of auxiliary sites, as in Pyro's AutoGuides; or if prior and guide of a site do not go together,
            see ``check_latents``.
    """
    model_trace, guide_trace = _traces(model, guide, args)
    check_latents(model_trace, guide_trace)
    guide_sites = sample_sites(guide_trace)
    auxiliary = {name: site for name, site in guide_sites.items() if site["infer"].get("is_auxiliary")}
    for name, site in auxiliary.items():
        if is_delta(site):
            raise ValueError(
                f"Guide site {name!r} is a point mass, which has no density: log p(x) cannot be estimated with it. "
                "Score with a guide that has a spread; of an AutoLaplaceApproximation that is what its "
                "laplace_approximation(...) returns."
            )
    if auxiliary:
        return
    for name, site in _shared_latents(model_trace, guide_trace).items():
        if is_delta(guide_sites[name]) and not is_delta(site):
            raise ValueError(
                f"Guide site {name!r} is a point mass, which has no density: log p(x) cannot be estimated with it. "
                "Score with a guide that has a spread, such as a normal around the point."
            )
        _warn_of_a_narrower_support(name, site, guide_sites[name])


@torch.no_grad()
def check_observations(model: Program, guide: Program, args: Args) -> None:
    """Refuse a model that observes nothing, or a guide that observes something: log p(x) would be of another thing.

    Raises:
        ValueError: asking whether the two are swapped.
    """
    model_trace, guide_trace = _traces(model, guide, args)
    if not any(site["is_observed"] for site in sample_sites(prune_subsample_sites(model_trace)).values()):
        raise ValueError(
            "Expected a model that observes its data, pyro.sample(..., obs=x); it has no such site. Are model and "
            "guide swapped?"
        )
    for name, site in sample_sites(prune_subsample_sites(guide_trace)).items():
        if site["is_observed"]:
            raise ValueError(
                f"Site {name!r} of the guide is scored, as pyro.factor and obs= are, and log p(x) would lack it. Take "
                f"it out of the guide where it is weighed: pyro.poutine.block(guide, hide=[{name!r}])."
            )


def _traces(model: Program, guide: Program, args: Args) -> tuple[Trace, Trace]:
    """Return traces of model and guide that are not scored, and leave the random state as it was."""
    with trial(model, guide, args[0].device):
        guide_trace = poutine.trace(guide).get_trace(*args)
        return poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*args), guide_trace


def check_latents(model_trace: Trace, guide_trace: Trace) -> None:
    """Refuse latent sites whose prior and guide do not go together, before anything is scored.

    Args:
        model_trace: the model's, replayed against the guide's; neither needs its log_prob.
        guide_trace: the guide's.

    Raises:
        ValueError: if prior and guide are densities by different measures, such as a discrete and a continuous
            one, or the guide draws values that the prior does not have.
    """
    guide_sites = sample_sites(guide_trace)
    for name, site in _shared_latents(model_trace, guide_trace).items():
        if site["fn"].event_shape == guide_sites[name]["fn"].event_shape:
            check_measure(name, site, guide_sites[name])
            _check_draws(name, site, guide_sites[name])


def _shared_latents(model_trace: Trace, guide_trace: Trace) -> dict[str, Site]:
    """Return the model's latent sites that the guide has; ``check_structure`` refuses the others."""
    sites = sample_sites(prune_subsample_sites(model_trace))
    return {n: s for n, s in sites.items() if not s["is_observed"] and n in guide_trace.nodes}


def _check_draws(name: str, site: Site, guide_site: Site) -> None:
    """Refuse draws of the guide that the prior would refuse to score, which says less."""
    fn = site["fn"]
    if getattr(fn, "_validate_args", False) and _inside(fn, site["value"]) is False:
        raise ValueError(
            f"The guide ({distribution_name(guide_site['fn'])}) draws values of {name!r} outside "
            f"{describe_support(support_of(fn))}, the support of the prior ({distribution_name(fn)}). Choose a guide "
            "with the prior's support."
        )


def _inside(fn: Any, value: Tensor) -> bool | None:
    """Say whether values are all in a distribution's support; None where it is not known."""
    try:
        return bool(support_of(fn).check(value).all())
    except (AttributeError, NotImplementedError, RuntimeError, ValueError):  # none declared, or not one to broadcast
        return None


def _warn_of_a_narrower_support(name: str, site: Site, guide_site: Site) -> None:
    with fork_rng(site["value"].device):
        draws = site["fn"]((64,)) if not site["fn"].batch_shape else site["fn"]()
    if _inside(guide_site["fn"], draws) is False:
        warnings.warn(
            f"The guide cannot reach values of {name!r} that the prior can: outside its support log p(x) is missed "
            "at every K, and no diagnostic shows it. methods.IW(defensive=0.1) draws from the prior too.",
            stacklevel=3,
        )
