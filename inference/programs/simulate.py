"""Joint draws of latents and data from any Pyro model."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from pyro import poutine
from torch import Tensor, nn

from pyro_vae.core.checks import check_positive_int
from pyro_vae.inference.programs.again import RandomState, recording
from pyro_vae.inference.programs.call import Args, Data, Program, as_args, rows
from pyro_vae.inference.programs.places import Place, find_places
from pyro_vae.inference.programs.plates import Plates, SeveralPlatesError, plates_at
from pyro_vae.inference.programs.sites import Site, event_dim, sample_sites
from pyro_vae.inference.programs.vectorize import find_plates


@dataclass(frozen=True)
class Simulation:
    """Data drawn from a model, and the latents they were drawn with: exact draws of the posterior.

    Attributes:
        args: the program's arguments, with the simulated data in the place of the data.
        latents: {site: value, shape (N, *event)} of the latent sites, z ~ p(z).
        places: {site: where in the arguments is what it observes}.
        num_runs: how often the model was run until each site depended on draws alone.
    """

    args: Args
    latents: dict[str, Tensor]
    places: dict[str, Place]
    num_runs: int = 1


@torch.no_grad()
def simulate(model: Program, x: Data, *, shared: bool = False, num_runs: int | None = None) -> Simulation:
    """Draw (z, x) ~ p(z) p(x|z), by running a model with its observations taken away.

    Arguments that are no observation, such as the covariates of a conditional model, stay as they are; masked
    entries are drawn like the others. Draws come from the global generator. Where a site depends on what another
    observes, as in a sequence, the model is run again, with the same random numbers, on the draws so far.

    Args:
        model: Pyro program for p(x, z), which observes its data as they were handed in, ``obs=x``, or entries of them,
            ``obs=x[:, t]``.
        x: example data, shape (N, *event), or a tuple of tensors: the shape of what is observed matters, not its
            values.
        shared: let data share latents, whose values are then returned as the model draws them.
        num_runs: how often the model is run, where it was found out before; no value is looked at then.

    Returns:
        the simulated arguments and latents.

    Raises:
        ValueError: if an observed site's data are none of the arguments, so that nobody could say where its draw
            belongs, if two sites observe the same one, if nothing is observed, or if a draw has another size, or if a
            site's distribution depends on what is observed there.
    """
    args = tuple(arg.contiguous() for arg in as_args(x))
    before = RandomState(args[0].device)
    drawn = _draw(model, args, shared)
    for number in range(1, 2 + len(drawn.places)):
        if number == num_runs or recording():
            return replace(drawn, num_runs=number)
        before.put_back()
        again = _draw(model, drawn.args, shared, drawn.places)
        if num_runs is None and _same(again.args, drawn.args):
            return replace(drawn, num_runs=number)
        drawn = again  # a site depends on what another observes, as in a sequence: now on the draw
    raise ValueError(
        f"Cannot simulate: one of the sites {list(drawn.places)} has a distribution that depends on what it observes."
    )


def _same(one: Args, other: Args) -> bool:
    return all(a.is_meta or torch.equal(a, b) for a, b in zip(one, other, strict=True))


def _draw(model: Program, args: Args, shared: bool, places: dict[str, Place] | None = None) -> Simulation:
    """Draw latents and, at the places where they are observed, data; other entries of the arguments stay."""
    trace = poutine.trace(poutine.uncondition(model)).get_trace(*args)
    sites = sample_sites(poutine.util.prune_subsample_sites(trace))
    observed = {name: site for name, site in sites.items() if site["infer"].get("was_observed")}
    if not observed:
        raise ValueError("Expected a model that observes its data, pyro.sample(..., obs=x); it has no such site.")
    drawn, places = list(args), find_places(model, observed, args) if places is None else places
    for name, place in places.items():
        _check_draw(name, observed[name]["value"], place)
        drawn[place.argument] = place.put(observed[name]["value"], drawn[place.argument])
    latents = {name: site["value"] for name, site in sites.items() if name not in observed}
    if not shared:
        plates = _plates(model, sites, args)
        latents = {n: plates.by_datum(v, event_dim(sites[n]), len(args[0]))[0] for n, v in latents.items()}
    return Simulation(tuple(drawn), latents, places)


def with_missing(drawn: Simulation, like: Args) -> Simulation:
    """Take out of simulated data what is missing, NaN, in data of the same shape.

    Args:
        drawn: data as ``simulate`` draws them, complete.
        like: the program's arguments that they were drawn after.
    """
    args = list(drawn.args)
    for i in {place.argument for place in drawn.places.values()}:
        if like[i].is_floating_point():
            args[i] = args[i].masked_fill(like[i].isnan(), torch.nan)
    return Simulation(tuple(args), drawn.latents, drawn.places)


def _plates(model: Program, sites: dict[str, Site], args: Args) -> Plates:
    try:
        return plates_at(sites, len(args[0]))
    except SeveralPlatesError:
        return find_plates(model, None, args)


def _check_draw(name: str, draw: Tensor, place: Place) -> None:
    if draw.numel() != place.shape.numel():
        raise ValueError(
            f"Cannot simulate: site {name!r} observes a value of shape {tuple(place.shape)} and draws one of "
            f"{tuple(draw.shape)}. Give its distribution the shape of the data, or its plates their sizes."
        )


def example_data(model: Program, num_data: int, x: Data | None = None) -> Args:
    """Return arguments of the shape of ``num_data`` data, from example data or the model's ``event_shape``.

    Raises:
        ValueError: if there are neither, or fewer example data than 1.
    """
    check_positive_int(num_data, "num_data")
    if x is not None:
        index = torch.arange(num_data) % len(as_args(x)[0])
        return rows(as_args(x), index)
    shape = getattr(model, "event_shape", None)
    if shape is None:
        raise ValueError("Expected example data x=..., whose shape the simulated data take: the model does not say.")
    like = next(model.parameters(), torch.zeros(())) if isinstance(model, nn.Module) else torch.zeros(())
    return (torch.zeros(num_data, *shape, dtype=like.dtype, device=like.device),)
