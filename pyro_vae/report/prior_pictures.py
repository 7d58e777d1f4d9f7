"""Figures of priors p(z) over one or two latent dimensions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor
from torch.distributions import Distribution, constraints

from pyro_vae.core.checks import describe_support
from pyro_vae.core.distributions import as_part
from pyro_vae.inference.programs.call import fork_rng
from pyro_vae.report.figures import BLUE, ORANGE, WIDTH, single_axes

NUM_DRAWS, NUM_POINTS = 4000, 200
MASS = {0.99: "99 %", 0.9: "90 %", 0.5: "50 %"}
"""Shares of the mass inside the contours."""


@torch.no_grad()
def prior_density(prior: Distribution | Callable[[], Distribution], seed: int = 0) -> Figure:
    """Draw the density of a prior: a curve for D = 1, the regions of highest density for D = 2.

    A contour holds 50, 90 or 99 % of the mass; its level is a quantile of log p(z) over draws.

    Args:
        prior: a prior over one or two real dimensions, or its distribution.
        seed: seed of the draws, from which the range and the levels are taken.

    Raises:
        ValueError: for more dimensions, or a law that has no density on R or R^2, such as a discrete one.
    """
    p = as_part(prior)()
    _check(p)
    with fork_rng(torch.device("cpu"), seed):
        z = p.sample((NUM_DRAWS,))
    figure, axes = single_axes() if p.event_shape == (1,) else single_axes(WIDTH)
    (_curve if p.event_shape == (1,) else _contours)(axes, p, z)
    return figure


def _check(p: Distribution) -> None:
    support: Any = p.support
    while hasattr(support, "base_constraint"):  # of independent entries, or of a mixture
        support = support.base_constraint
    drawable = (constraints.real, constraints.real_vector, constraints.unit_interval)
    if p.event_shape not in ((1,), (2,)) or not any(support is known for known in drawable):
        raise ValueError(
            f"Expected a prior with a density over one or two dimensions; got event shape {tuple(p.event_shape)} and "
            f"support {describe_support(support)}. Draw from it instead: prior().sample((100,))."
        )


def _grid(values: Tensor) -> Tensor:
    """Return points that span all but the outermost draws, with some room."""
    low, high = (torch.quantile(values, q) for q in (0.005, 0.995))
    room = 0.1 * (high - low)
    return torch.linspace(low - room, high + room, NUM_POINTS, device=values.device, dtype=values.dtype)


def _log_prob(p: Distribution, z: Tensor) -> np.ndarray:
    """Return log p(z), -inf outside the support."""
    support: Any = p.support
    inside = support.check(z)
    middle = z.new_full((), 0.5)
    log_prob = p.log_prob(torch.where(inside.reshape(*z.shape[:-1], 1), z, middle))
    return torch.where(inside, log_prob, -torch.inf).cpu().numpy()


def _curve(axes: Axes, p: Distribution, z: Tensor) -> None:
    grid = _grid(z[:, 0])
    axes.plot(grid.cpu().numpy(), np.exp(_log_prob(p, grid[:, None])), color=BLUE)
    axes.set(xlabel="z", ylabel="p(z)", ylim=(0, None))


def _contours(axes: Axes, p: Distribution, z: Tensor) -> None:
    first, second = (_grid(z[:, i]) for i in range(2))
    points = torch.stack(torch.meshgrid(first, second, indexing="xy"), -1)
    log_prob = _log_prob(p, points)
    levels = torch.quantile(p.log_prob(z), z.new_tensor([1 - share for share in MASS])).tolist()
    floor = levels[0] - 50  # a contour cannot run to -inf
    drawn = axes.contour(
        first.cpu().numpy(),
        second.cpu().numpy(),
        np.maximum(log_prob, floor),
        levels=levels,
        colors=[BLUE, BLUE, ORANGE],
    )
    axes.clabel(drawn, fmt=dict(zip(levels, MASS.values(), strict=True)))
    axes.set(xlabel="z, dimension 1", ylabel="z, dimension 2")
