"""Draws, reconstructions and codes of any model and guide, taken from the sites of their programs."""

from __future__ import annotations

import torch
from pyro import poutine
from torch import Tensor, nn
from torch.distributions import Distribution

from pyro_vae.inference.programs.call import as_args
from pyro_vae.inference.programs.structure import Site, sample_sites


def predictive(model: nn.Module, num_data: int, y: Tensor | None = None) -> Distribution:
    """Return p(x|z), batch shape (N,), at latents drawn from the model.

    Args:
        model: p(x, z), called as ``model(num_data=N)`` or, given y, as ``model(None, y)``.
        num_data: number of draws N, where no y is given.
        y: what x is conditioned on, shape (N,) or (N, E).
    """
    return _drawn(model, num_data, y)["x"]["fn"]


def reconstruction(model: nn.Module, guide: nn.Module, x: Tensor, y: Tensor | None = None) -> Distribution:
    """Return p(x|z), batch shape (N,), at one z from q(z|x) for each datum.

    Args:
        model: p(x, z), called as in ``predictive``.
        guide: q(z|x), called as ``guide(x)`` or ``guide(x, y)``.
        x: data, shape (N, *event).
        y: what x is conditioned on.
    """
    trace = poutine.trace(guide).get_trace(*_args(x, y))
    return _drawn(poutine.replay(model, trace), len(x), y)["x"]["fn"]


def codes(guide: nn.Module, x: Tensor, y: Tensor | None = None) -> Distribution:
    """Return q(z|x), batch shape (N,): of a hierarchy the layer nearest to the data, z_1, given one draw of the others.

    Args:
        guide: q(z|x), called as in ``reconstruction``.
        x: data, shape (N, *event).
        y: what x is conditioned on.
    """
    sites = sample_sites(poutine.trace(guide).get_trace(*_args(x, y)))
    return sites["z" if "z" in sites else "z_1"]["fn"]


def _args(x: Tensor, y: Tensor | None) -> tuple[Tensor, ...]:
    return as_args(x if y is None else (x, y))


def _drawn(model: nn.Module, num_data: int, y: Tensor | None) -> dict[str, Site]:
    arguments = {"num_data": num_data} if y is None else {"x": None, "y": y}
    with torch.no_grad():
        return sample_sites(poutine.trace(model).get_trace(**arguments))
