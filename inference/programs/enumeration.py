"""Discrete sites of a guide as lists of all their values: which have one, and what a sum over them may not cross."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import MaskedDistribution
from pyro.poutine.messenger import Messenger
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_vae.inference.programs.sites import Site, distribution_name, sample_sites

MAX_VALUES = 2**16
"""Largest number of values of an event that are enumerated."""
_ADVICE = 'Use gradient="score", or "vimco" with several particles.'


class Factorised(dist.Independent):
    """An event of independent entries with a few values each, that can be enumerated: all combinations of them."""

    has_enumerate_support = True

    @property
    def num_values(self) -> int:
        """Number of values of the event, that of an entry to the power of their number."""
        return self._num_of_entry**self._num_entries

    @property
    def _num_of_entry(self) -> int:
        base = self.base_dist
        return base.num_values if isinstance(base, Factorised) else len(base.enumerate_support(expand=False))

    @property
    def _num_entries(self) -> int:
        return self.event_shape[: self.reinterpreted_batch_ndims].numel()

    def refusal(self, where: str = "") -> str:
        """Return the message for too many values, "" if there are not."""
        if self.num_values <= MAX_VALUES:
            return ""
        return (
            f"Expected at most {MAX_VALUES:,} values to sum over{where}; got {self.num_values:,}, {self._num_of_entry} "
            f"for each of {self._num_entries} entries. {_ADVICE}"
        )

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """Return all V values, shape (V, *batch, *event); without ``expand`` (V, 1, ..., 1, *event).

        Raises:
            ValueError: if there are too many.
        """
        if refusal := self.refusal():
            raise ValueError(refusal)
        entry = self.base_dist.enumerate_support(expand=False)
        count, own = len(entry), entry.shape[len(self.base_dist.batch_shape) + 1 :]
        entry = entry.reshape(count, *own)
        place = count ** torch.arange(self._num_entries, device=entry.device)
        digits = torch.arange(self.num_values, device=entry.device)[:, None] // place % count
        values = entry[digits].reshape(self.num_values, *[1] * len(self.batch_shape), *self.event_shape)
        return values.expand(-1, *self.batch_shape, *self.event_shape) if expand else values


def enumerable(fn: Any) -> Any:
    """Return the distribution as one that lists its values, None if it has no finite list.

    One that does itself comes back as it is; an event of independent entries of such as ``Factorised``.
    """
    if isinstance(fn, Factorised):
        return fn
    if isinstance(fn, MaskedDistribution):
        base = enumerable(fn.base_dist)
        return None if base is None else MaskedDistribution(base, fn._mask)
    if type(fn).__name__ == "Independent" and fn.reinterpreted_batch_ndims > 0:
        base = enumerable(fn.base_dist)
        return None if base is None else Factorised(base, fn.reinterpreted_batch_ndims)
    if not getattr(fn, "has_enumerate_support", False):
        return None
    try:
        fn.enumerate_support(expand=False)
    except NotImplementedError:  # entries with numbers of values of their own
        return None
    return fn


class Enumerable(Messenger):
    """Handler that lets the discrete events of a guide be enumerated, as ``pyro.infer.config_enumerate`` marks them."""

    def _pyro_sample(self, msg: Any) -> None:
        if not msg["is_observed"] and not site_is_subsample(msg):
            listed = enumerable(msg["fn"])
            msg["fn"] = msg["fn"] if listed is None else listed


def check_enumeration(model_trace: Trace, guide_trace: Trace) -> None:
    """Refuse discrete sites of a guide that cannot be summed over exactly by ``pyro.infer.TraceEnum_ELBO``.

    Raises:
        ValueError: for a site without a finite list of values, with too many, or with a mask that the sum would
            miss; and for a site outside a plate that the values of a whole plate may explain.
    """
    sites, model_sites = sample_sites(guide_trace), sample_sites(model_trace)
    enumerated = {}
    for name, site in sites.items():
        if not site["is_observed"] and _is_discrete(site["fn"]):
            _check_values(name, site["fn"])
            _check_mask(name, site, model_sites.get(name))
            enumerated[name] = site
    for program, named in (("model", model_sites), ("guide", sites)):
        _check_plates(program, named, enumerated)


def _is_discrete(fn: Any) -> bool:
    """Say whether a distribution, or what it is made of, has a discrete support."""
    while fn is not None:
        try:
            if fn.support.is_discrete:
                return True
        except (AttributeError, NotImplementedError):
            pass
        fn = getattr(fn, "base_dist", None)
    return False


def _check_values(name: str, fn: Any) -> None:
    listed = enumerable(fn)
    if listed is None:
        raise ValueError(
            f"Guide site {name!r} ({distribution_name(fn)}) has no finite list of values to sum over. {_ADVICE}"
        )
    while isinstance(listed, MaskedDistribution):
        listed = listed.base_dist
    if isinstance(listed, Factorised) and (refusal := listed.refusal(f" at guide site {name!r}")):
        raise ValueError(refusal)


def _check_mask(name: str, site: Site, in_model: Site | None) -> None:
    """Refuse masks under which the probabilities of the values would not sum to one, or log q and log p not match."""
    fn = site["fn"]
    while isinstance(fn, MaskedDistribution):
        fn = fn.base_dist
    while isinstance(fn, dist.Independent):
        fn = fn.base_dist
        if isinstance(fn, MaskedDistribution):
            raise ValueError(
                f"Expected no mask inside the event of guide site {name!r}, whose values are summed over. Mask the "
                f"whole event, after .to_event(n), or take the entries as a plate. {_ADVICE}"
            )
    masks = [None if s is None else s["mask"] for s in (site, in_model)]
    if (masks[0] is None) != (masks[1] is None):
        raise ValueError(
            f"Expected one mask at site {name!r} in model and guide to sum over its values; one has none. Mask both. "
            f"{_ADVICE}"
        )


def _check_plates(program: str, sites: dict[str, Site], enumerated: dict[str, Site]) -> None:
    """Refuse a site that comes after an enumerated one and lies outside a plate of its.

    The values of a plate are enumerated in step, all its entries with the first value, then with the second, which is
    right for what lies in the plate too, and for nothing that depends on several entries at once.
    """
    before: dict[str, set[str]] = {}
    for name, site in sites.items():
        own = {frame.name for frame in site["cond_indep_stack"] if frame.vectorized}
        for earlier, plates in before.items():
            if own < plates:
                plate = min(plates - own)
                raise ValueError(
                    f"Site {name!r} of the {program} lies outside plate {plate!r} of the guide's site {earlier!r} and "
                    "comes after it: if it depends on several entries of that plate, the sum over values taken entry "
                    f"by entry is wrong. Draw it before {earlier!r}, or make the plate an event, .to_event(n). "
                    f"{_ADVICE}"
                )
        if name in enumerated:
            before[name] = {f.name for f in enumerated[name]["cond_indep_stack"] if f.vectorized}
