"""Where what a model observes stands in its arguments: an argument, a view of one, or entries picked out of one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from pyro import poutine
from torch import Tensor

from pyro_vae.inference.programs.call import Args, Program, unvalidated
from pyro_vae.inference.programs.sites import Site, sample_sites
from pyro_vae.inference.programs.trial import trial

LARGEST = {torch.float32: 2**24, torch.float64: 2**53, torch.int32: 2**31, torch.int64: 2**53}
"""Up to where a dtype holds all whole numbers."""


@dataclass(frozen=True)
class Place:
    """Where what a site observes stands.

    Attributes:
        argument: which of the arguments it is, or is a part of.
        shape: that of what is observed.
        like: that of the argument.
        entries: where each of its entries is in the argument, counted in the order of its memory, flat; None where it
            is all of the argument, in its order.
    """

    argument: int
    shape: torch.Size
    like: torch.Size
    entries: Tensor | None = None

    def put(self, value: Tensor, into: Tensor) -> Tensor:
        """Return the argument with another value in the place of what was observed."""
        if self.entries is None:
            return value.reshape(into.shape)
        filled = into.reshape(-1).clone()
        filled[self.entries] = value.reshape(-1).to(into.dtype)
        return filled.reshape(into.shape)

    def of(self, args: Args) -> Tensor:
        """Return what is observed of arguments, shape (N, M), or the argument where it is whole.

        Raises:
            ValueError: where they are not the same for all data.
        """
        argument = args[self.argument]
        if self.entries is None:
            return argument
        seen = torch.zeros(self.like.numel(), dtype=torch.bool, device=argument.device)
        seen[self.entries] = True
        rows = seen.reshape(self.like[0], -1)
        if not (rows == rows[0]).all():
            raise ValueError("Expected a model that observes the same entries of each datum.")
        return argument.reshape(len(argument), -1)[:, rows[0]]


def find_places(model: Program, observed: dict[str, Site], args: Args) -> dict[str, Place]:
    """Return {site: place} of observed sites in a model's arguments, which are contiguous.

    What is no view of an argument is looked for by running the model on arguments whose entries are numbered: what a
    site observes then says where it comes from, and, the numbers counted backwards, whether it is an entry as it is.

    Args:
        model: Pyro program for p(x, z).
        observed: {name: site} of an unconditioned run.
        args: its arguments.

    Raises:
        ValueError: if an observed site's data are computed from the arguments, so that nobody could say where its draw
            belongs, or if two sites observe the same entry.
    """
    found = {name: _view_of(_value(site), args) for name, site in observed.items()}
    if None in found.values():
        for i in range(len(args)):
            for name, entries in _picked(model, args, i).items():
                if found.get(name, ()) is None:
                    found[name] = Place(i, entries.shape, args[i].shape, entries.reshape(-1))
    places: dict[str, Place] = {}
    for name, place in found.items():
        if place is None:
            raise ValueError(
                f"Cannot simulate: site {name!r} observes something computed from the arguments, not entries of them. "
                "Pass what it observes as an argument of its own, obs=x."
            )
        places[name] = place
    _check_disjoint(places, args)
    return places


def _value(site: Site) -> Tensor:
    """Return what a site observes; ``VAE`` observes a copy where entries are missing, and says of what."""
    value: Tensor = site["infer"].get("observes", site["infer"]["obs"])
    return value


def _view_of(value: Tensor, args: Args) -> Place | None:
    """Return the place of a tensor that shares the memory of an argument."""
    for i, arg in enumerate(args):
        if value.data_ptr() == arg.data_ptr() and value.numel() == arg.numel() and value.is_contiguous():
            return Place(i, value.shape, arg.shape)
        same = value.untyped_storage().data_ptr() == arg.untyped_storage().data_ptr() and value.dtype == arg.dtype
        if same and value.numel():
            entries = torch.full(value.shape, value.storage_offset() - arg.storage_offset(), device=value.device)
            for dim, (size, stride) in enumerate(zip(value.shape, value.stride(), strict=True)):
                steps = torch.arange(size, device=value.device) * stride
                entries = entries + steps.reshape(-1, *[1] * (value.ndim - dim - 1))
            if entries.min() >= 0 and entries.max() < arg.numel():
                return Place(i, value.shape, arg.shape, entries.reshape(-1))
    return None


@torch.no_grad()
def _picked(model: Program, args: Args, i: int) -> dict[str, Tensor]:
    """Return {site: entries} of the sites that observe entries of an argument as they are."""
    count = args[i].numel()
    if count > LARGEST.get(args[i].dtype, 0):
        return {}
    numbers = torch.arange(count, device=args[i].device)
    try:
        forwards, backwards = (_seen(model, args, i, counted) for counted in (numbers, count - 1 - numbers))
    except Exception:  # whatever a program raises on numbers that are no data of its own
        return {}
    both = {name: (value, backwards[name]) for name, value in forwards.items() if name in backwards}
    return {
        name: value.long()
        for name, (value, back) in both.items()
        if value.shape == back.shape and _are_entries(value, count) and torch.equal(count - 1 - value, back)
    }


def _are_entries(value: Tensor, count: int) -> bool:
    """Say whether all values are whole numbers that count entries."""
    return value.numel() > 0 and bool(((value >= 0) & (value < count) & (value == value.long())).all())


def _seen(model: Program, args: Args, i: int, numbers: Tensor) -> dict[str, Tensor]:
    """Return {site: what it observes} where the entries of an argument are numbers."""
    counted = (*args[:i], numbers.to(args[i].dtype).reshape(args[i].shape), *args[i + 1 :])
    with trial(model, model, args[i].device), unvalidated():
        sites = sample_sites(poutine.trace(poutine.uncondition(model)).get_trace(*counted))
    return {name: _value(site).double() for name, site in sites.items() if site["infer"].get("was_observed")}


def _check_disjoint(places: dict[str, Place], args: Args) -> None:
    for i in range(len(args)):
        named = {name: place.entries for name, place in places.items() if place.argument == i}
        parts = [entries for entries in named.values() if entries is not None]
        if len(parts) < len(named) > 1 or (parts and torch.bincount(torch.cat(parts)).max() > 1):
            raise ValueError(
                f"Cannot simulate: the sites {list(named)} observe one argument twice. Pass it for each of them."
            )
