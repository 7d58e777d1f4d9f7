"""The distributions at the sites of any pair of programs: p(x|z) at draws of z, q(z|x), and p(z)."""

from __future__ import annotations

from typing import Any

import torch
from pyro import poutine
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from pyro_vae.inference.programs.call import as_args
from pyro_vae.inference.programs.sites import Site, sample_sites


def prior_predictive(model: nn.Module, num_data: int, y: Tensor | None = None) -> Distribution:
    """Return p(x|z), batch shape (N,), at z drawn from the prior.

    Args:
        model: p(x, z), called as ``model(num_data=N)`` or, given y, as ``model(None, y)``.
        num_data: number of draws N, where no y is given.
        y: what x is conditioned on, classes of shape (N,) or covariates of shape (N, E).
    """
    return _drawn(model, num_data, y)["x"]["fn"]


def reconstruction(model: nn.Module, guide: nn.Module, x: Tensor, y: Tensor | None = None) -> Distribution:
    """Return p(x|z), batch shape (N,), at one z from q(z|x) for each datum.

    Args:
        model: p(x, z), called as ``model(num_data=N)`` or, given y, as ``model(None, y)``.
        guide: q(z|x), called as ``guide(x)`` or ``guide(x, y)``.
        x: data, shape (N, *event).
        y: what x is conditioned on, shape (N,) or (N, E).
    """
    trace = poutine.trace(guide).get_trace(*_args(x, y))
    return _drawn(poutine.replay(model, trace), len(x), y)["x"]["fn"]


def posterior(guide: nn.Module, x: Tensor, y: Tensor | None = None) -> Distribution:
    """Return q(z|x), batch shape (N,): of a hierarchy the layer nearest to the data, z_1, given one draw of the others.

    Args:
        guide: q(z|x), called as ``guide(x)`` or ``guide(x, y)``.
        x: data, shape (N, *event).
        y: what x is conditioned on, shape (N,) or (N, E).
    """
    sites = sample_sites(poutine.trace(guide).get_trace(*_args(x, y)))
    return sites["z" if "z" in sites else "z_1"]["fn"]


def prior_density(model: nn.Module) -> Distribution | None:
    """Return p(z), batch shape () or (1,), event shape (D,); None unless z is the only latent, with a density on R^D.

    Args:
        model: p(x, z), called as ``model(num_data=N)``.
    """
    sites = _drawn(model, 1, None)
    if {name for name, site in sites.items() if isinstance(site["fn"], Distribution)} != {"z", "x"}:  # not the plates
        return None
    p_z = sites["z"]["fn"]
    support: Any = p_z.support
    while hasattr(support, "base_constraint"):  # of independent entries, or of a mixture
        support = support.base_constraint
    return p_z if support in (constraints.real, constraints.real_vector) else None


def mean_of(distribution: Distribution) -> Tensor:
    """Return the mean, batch shape + event shape; that of 100 draws where there is no formula, as for flows."""
    try:
        return distribution.mean
    except NotImplementedError:
        return distribution.sample(torch.Size([100])).mean(0)


def _args(x: Tensor, y: Tensor | None) -> tuple[Tensor, ...]:
    return as_args(x if y is None else (x, y))


def _drawn(model: nn.Module, num_data: int, y: Tensor | None) -> dict[str, Site]:
    arguments = {"num_data": num_data} if y is None else {"x": None, "y": y}
    with torch.no_grad():
        return sample_sites(poutine.trace(model).get_trace(**arguments))
