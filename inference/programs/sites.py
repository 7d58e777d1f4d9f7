"""A site of a trace by itself: its event, its support, its distribution without the wrapping, and its marks."""

from __future__ import annotations

from typing import Any

from pyro.distributions import Delta
from pyro.poutine.trace_struct import Trace
from torch import Tensor
from torch.distributions import Transform, biject_to, constraints
from torch.distributions.transforms import IndependentTransform

Site = dict[str, Any]
SUMMED = "summed_out"
"""In a site whose log_prob is given the sites before it alone, discrete latents summed out."""


def sample_sites(trace: Trace) -> dict[str, Site]:
    """Return the sites that are scored: those of ``pyro.deterministic`` are not."""
    return {
        name: site
        for name, site in trace.nodes.items()
        if site["type"] == "sample" and not site["infer"].get("_deterministic")
    }


def event_dim(site: Site) -> int:
    """Return the number of dimensions of a site's event, which not every distribution of Pyro's says itself."""
    return len(site["fn"].event_shape)


def distribution_name(fn: Any) -> str:
    """Return the name of a distribution's class, without the wrapping that makes dimensions an event."""
    while type(fn).__name__ in ("Independent", "Factorised", "MaskedDistribution", "ExpandedDistribution"):
        fn = fn.base_dist
    return type(fn).__name__


def shows_all(mask: Any) -> bool:
    """Say whether a mask is none, or True; one that is a tensor is not read."""
    return mask is None or mask is True


def distribution_mask(fn: Any) -> Any:
    """Return the mask that a distribution holds, at any depth; None for none, or one that is True."""
    while fn is not None:
        mask = getattr(fn, "_mask", None)
        if not shows_all(mask):
            return mask
        fn = getattr(fn, "base_dist", None)
    return None


def is_delta(site: Site) -> bool:
    """Say whether a site is a point mass."""
    fn = site["fn"]
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return isinstance(fn, Delta)


def support_of(fn: Any) -> Any:
    """Return the support of a distribution, also of a flow of zuko's in Pyro's wrapper, which does not say it.

    Raises:
        NotImplementedError: if nothing says it.
    """
    try:
        return fn.support
    except (AttributeError, NotImplementedError):
        flow = getattr(fn, "dist", None)
        if flow is None:
            raise NotImplementedError(f"{type(fn).__name__} declares no support") from None
        transform = getattr(flow, "transform", None)
        return support_of(flow) if transform is None else transform.domain


def map_from_reals(support: Any) -> Transform:
    """Return the map from the reals to a support, ``biject_to`` of it, and of a mixture that of its components.

    Raises:
        NotImplementedError: if there is none, as for components whose supports have bounds of their own.
    """
    if isinstance(support, constraints.independent):
        return IndependentTransform(map_from_reals(support.base_constraint), support.reinterpreted_batch_ndims)
    if type(support).__name__ != "MixtureSameFamilyConstraint":
        return biject_to(support)
    base = support.base_constraint
    while isinstance(base, constraints.independent):
        base = base.base_constraint
    if any(isinstance(bound, Tensor) for bound in vars(base).values()):
        raise NotImplementedError("components of a mixture with bounds of their own")
    return map_from_reals(support.base_constraint)
