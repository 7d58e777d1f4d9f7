"""What a model scores: which of its arguments it observes, and whether by a density or a probability mass."""

from __future__ import annotations

from typing import Any

import torch
from pyro import poutine
from pyro.distributions import Unit
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor

from pyro_vae.inference.programs.call import Args, Program
from pyro_vae.inference.programs.sites import sample_sites, support_of
from pyro_vae.inference.programs.trial import trial


@torch.no_grad()
def what_is_scored(model: Program, args: Args) -> str:
    """Return in words what a model observes and by what measure, "" where that cannot be said.

    log p(x | y) and log p(x, y) of the same data differ in it, and so do a density of x and the probability of
    rounded x: differences between them mean nothing. Two probability masses, or two densities, of one x agree.

    Args:
        model: Pyro program for p(x, z).
        args: its arguments.
    """
    with trial(model, model, args[0].device):
        trace = prune_subsample_sites(poutine.trace(model).get_trace(*args))
    found: dict[int, str] = {}
    for site in sample_sites(trace).values():
        if not site["is_observed"] or isinstance(site["fn"], Unit):  # pyro.factor observes nothing
            continue
        place = place_of(site["infer"].get("observes", site["value"]), args)
        if place is None or place in found:
            return ""
        found[place] = _measure(site["fn"])
    return ", ".join(f"argument {place} by {found[place]}" for place in sorted(found))


def place_of(observed: Tensor, args: Args) -> int | None:
    """Return which argument is observed, None where it is something computed from them."""
    for i, arg in enumerate(args):
        if arg.data_ptr() == observed.data_ptr() and arg.numel() == observed.numel():  # x itself, or a view of it
            return i
    return None


def _measure(fn: Any) -> str:
    """Return "mass" or "density"; of columns that differ, that of each."""
    try:
        support = support_of(fn)
    except NotImplementedError:
        return "density"
    base = _base(support)
    kinds = [_of_support(column.support) for column in getattr(base, "columns", ())] or [_of_support(base)]
    return kinds[0] if len(set(kinds)) == 1 else " and ".join(kinds)


def _base(support: Any) -> Any:
    """Return the constraint on single entries."""
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return support


def _of_support(support: Any) -> str:
    return "mass" if getattr(_base(support), "is_discrete", False) else "density"
