"""Joint draws of latents and data from any Pyro model."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from pyro import poutine
from torch import Tensor, nn

from pyro_vae.core.checks import check_positive_int
from pyro_vae.inference.programs.call import Args, Data, Program, as_args, rows
from pyro_vae.inference.programs.observed import place_of
from pyro_vae.inference.programs.structure import Site, sample_sites


@dataclass(frozen=True)
class Simulation:
    """Data drawn from a model, and the latents they were drawn with: exact draws of the posterior.

    Attributes:
        args: the program's arguments, with the simulated data in the place of the data.
        latents: {site: value, shape (N, *event)} of the latent sites, z ~ p(z).
        places: {site: i} where argument i is what the site observes.
    """

    args: Args
    latents: dict[str, Tensor]
    places: dict[str, int]


@torch.no_grad()
def simulate(model: Program, x: Data) -> Simulation:
    """Draw (z, x) ~ p(z) p(x|z), by running a model with its observations taken away.

    Arguments that are no observation, such as the covariates of a conditional model, stay as they are; masked
    entries are drawn like the others. Draws come from the global generator.

    Args:
        model: Pyro program for p(x, z), which observes its data as they were handed in, ``obs=x``.
        x: example data, shape (N, *event), or a tuple of tensors: the shape of what is observed matters, not its
            values.

    Returns:
        the simulated arguments and latents.

    Raises:
        ValueError: if an observed site's data are none of the arguments, so that nobody could say where its draw
            belongs, if two sites observe the same one, if a draw has another size, or if nothing is observed.
    """
    args = as_args(x)
    trace = poutine.trace(poutine.uncondition(model)).get_trace(*args)
    sites = sample_sites(poutine.util.prune_subsample_sites(trace))
    observed = {name: site for name, site in sites.items() if site["infer"].get("was_observed")}
    if not observed:
        raise ValueError("Expected a model that observes its data, pyro.sample(..., obs=x); it has no such site.")
    drawn, places = list(args), {name: _place(name, site, args) for name, site in observed.items()}
    if len(set(places.values())) < len(places):
        raise ValueError(
            f"Cannot simulate: the sites {list(places)} observe one argument twice. Pass it for each of them."
        )
    for name, i in places.items():
        _check_size(name, observed[name]["value"], args[i])
        drawn[i] = observed[name]["value"].reshape(args[i].shape)
    latents = {name: site["value"] for name, site in sites.items() if name not in observed}
    return Simulation(tuple(drawn), latents, places)


def with_missing(drawn: Simulation, like: Args) -> Simulation:
    """Take out of simulated data what is missing, NaN, in data of the same shape.

    Args:
        drawn: data as ``simulate`` draws them, complete.
        like: the program's arguments that they were drawn after.
    """
    args = list(drawn.args)
    for i in set(drawn.places.values()):
        if like[i].is_floating_point():
            args[i] = args[i].masked_fill(like[i].isnan(), torch.nan)
    return Simulation(tuple(args), drawn.latents, drawn.places)


def _check_size(name: str, draw: Tensor, arg: Tensor) -> None:
    """Refuse a draw that has not the numbers of the data that it stands for."""
    if draw.numel() != arg.numel():
        raise ValueError(
            f"Cannot simulate: site {name!r} draws values of shape {tuple(draw.shape)} and observes data of shape "
            f"{tuple(arg.shape)}. Give its distribution the shape of the data."
        )


def _place(name: str, site: Site, args: Args) -> int:
    """Return the position of the argument that a site observes."""
    # VAE observes a copy where entries are missing.
    place = place_of(site["infer"].get("observes", site["infer"]["obs"]), args)
    if place is not None:
        return place
    raise ValueError(
        f"Cannot simulate: site {name!r} observes something computed from the arguments, not one of them. Pass "
        "what it observes as an argument of its own, obs=x."
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
