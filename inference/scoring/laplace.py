"""Importance weighting under heavy-tailed approximations at the modes of each datum's posterior."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from pyro_vae.core.checks import check_positive_int
from pyro_vae.inference.annealing.unconstrained import Unconstrained
from pyro_vae.inference.programs.call import Args, Program
from pyro_vae.inference.programs.vectorize import find_plates, is_divisible
from pyro_vae.inference.scoring.base import Method, Programs, Weights
from pyro_vae.inference.scoring.modes import Modes, find_modes
from pyro_vae.inference.scoring.student import StudentMixture

MOST_DIMENSIONS = 200
"""Latent numbers of a datum up to which its Hessian, one gradient each, is taken."""
MOST_STARTS = 96
"""Searches for each datum, at most."""
NUM_PILOT = 16
"""Draws of the guide for each datum, and of the prior: searches for modes start among them."""


@dataclass(frozen=True)
class Laplace(Method):
    """Importance weighting with Student-t distributions at the posterior's modes as proposal, whatever the guide.

        q(u) = (1 - alpha) sum_c pi_c t_nu(u; m_c, H_c^-1) + alpha p(u),   H_c = -Hessian of log p(x, u) at the mode m_c

    for each datum, in the coordinates u in which its latents are real numbers; pi_c is Laplace's approximation of the
    mass at a mode. Searches start at the mean and the best of some draws of the guide and at draws of the prior, by
    Adam into the basins and by damped Newton steps to the tops; no draw of a search is scored, so that E[w] = p(x). The
    heavy tails and the share of the prior cover what normal approximations lack; a mode that neither reaches is missed,
    as by any proposal, and annealed importance sampling from the prior finds it.

    Args:
        df: nu, degrees of freedom of the Student-t.
        defensive: alpha, the share of the draws that come from the prior, rounded to whole draws.
        starts: searches for each datum; up to 96 where more than a quarter of them come to different modes.
        steps: Newton steps at most.

    Raises:
        ValueError: for a setting out of its range, latents that are discrete, improper or too many (200), or a model
            of which torch has no second derivative.

    Source: the prior's share: Hesterberg (1995), Weighted Average Importance Sampling and Defensive Mixture
    Distributions; the proposal: Kuk (1999), Laplace Importance Sampling for Generalized Linear Mixed Models.
    """

    title: ClassVar = "Laplace importance sampling"
    df: float = 5.0
    defensive: float = 0.05
    starts: int = 6
    steps: int = 50

    def __post_init__(self) -> None:
        check_positive_int(self.starts, "starts")
        check_positive_int(self.steps, "steps")
        if not 0 < self.df < math.inf:
            raise ValueError(f"Expected 0 < df < inf, degrees of freedom of the Student-t; got {self.df!r}.")
        if not isinstance(self.defensive, float | int) or not 0 <= self.defensive < 1:
            raise ValueError(f"Expected 0 <= defensive < 1, the prior's share of the draws; got {self.defensive!r}.")

    @property
    def particles_of_its_own(self) -> int:
        """Draws of the guide for each datum, among which the search starts."""
        return max(NUM_PILOT, self.starts)

    def check(self, model: Program, guide: Program, batch: Args) -> None:
        """Refuse latents that have no mode or no Hessian."""
        dim = Unconstrained(model, None, batch, 1).dim
        if dim > MOST_DIMENSIONS:
            raise ValueError(
                f"Expected at most {MOST_DIMENSIONS} latent numbers for each datum for Laplace; got {dim}. Score with "
                'method="iw" or "ais".'
            )

    def weights(
        self, programs: Programs, batch: Args, counts: list[int], advance: Callable[[int], object]
    ) -> Iterator[Weights]:
        """Yield log p(x, u) - log q(u) for u drawn from the proposal at the modes of each datum."""
        depth = find_plates(programs.model, None, batch)
        space = Unconstrained(programs.model, None, batch, self.particles_of_its_own, plates=depth)
        mixture, _ = self.proposal(programs, space)
        for weighted in proposal_weights(space, mixture, counts):
            yield Weights(weighted.log_w)
            advance(weighted.log_w.numel())

    def proposal(self, programs: Programs, space: Unconstrained) -> tuple[StudentMixture, Tensor]:
        """Return the mixture at the modes of each datum, and whether any was found, shape (B,).

        Where more than a quarter of the searches came to modes of their own there may be more: four times as many
        follow.

        Args:
            programs: model and guide.
            space: the model as a function of u, with draws of the prior.
        """
        modes = self.modes(programs, space)
        mixture, found = modes.mixture(self.df, self.defensive), modes.found.any(0)
        crowded = (mixture.log_shares.isfinite().sum(0) > self.starts / 4).nonzero()[:, 0]
        if not len(crowded) or not 1 < self.starts < MOST_STARTS or not is_divisible(programs.model, space.args):
            return mixture, found
        few, more = space.at(crowded), replace(self, starts=4 * self.starts)
        drawn = Unconstrained(few.model, None, few.args, more.starts, plates=few.plates)
        chosen = torch.zeros_like(found).index_fill(0, crowded, True)
        return mixture.put(chosen, more.proposal(programs, drawn)[0]), found

    def modes(self, programs: Programs, space: Unconstrained) -> Modes:
        """Search for the modes of each datum from several starts.

        Args:
            programs: model and guide.
            space: the model as a function of u, with draws of the prior.
        """
        scale = space.start.std((0, 1)).clamp(min=1e-6)
        start = _starts(programs.guide, space, scale, self.starts)
        return find_modes(space.with_data(space.args, len(start)), start, scale, self.steps)


@dataclass(frozen=True)
class Weighted:
    """Draws u of a proposal, shape (K, B, D), their log weights, and their log p(u), each of shape (K, B)."""

    u: Tensor
    log_w: Tensor
    log_prior: Tensor


def proposal_weights(space: Unconstrained, mixture: StudentMixture, counts: list[int]) -> Iterator[Weighted]:
    """Yield draws of a proposal and their log weights, in chunks; E[w] = p(x) for the mean of all.

    Args:
        space: the programs as functions of u, at the data of the mixture.
        mixture: the proposals, one for each datum.
        counts: particles in each chunk; they add up to K.
    """
    draws, share = draw(space, mixture, counts)
    for u in draws:
        densities = space.with_data(space.args, len(u))(u)
        log_w = densities.joint.double() - mixture.log_density(u.double(), densities.prior, share)
        outside = densities.prior.isnan()  # T(u) has left the support by overflow; a likelihood that is NaN is an error
        yield Weighted(u, log_w.where(~outside, -math.inf), densities.prior.where(~outside, -math.inf))


def draw(space: Unconstrained, mixture: StudentMixture, counts: list[int]) -> tuple[Iterator[Tensor], Tensor]:
    """Return draws of a proposal in chunks, shape (k, B, D), and the share of the prior among them, shape (B,).

    Of the K draws of a datum as many come from the prior as its share says, rounded, in places drawn at random: less
    noise than if their number were drawn too.

    Source: Owen and Zhou (2000), Safe and Effective Importance Sampling.
    """
    total = sum(counts)
    num_prior = (mixture.from_prior * total).round()

    def draws() -> Iterator[Tensor]:
        for place in torch.randperm(total, device=num_prior.device).split(counts):
            u = mixture.draw(len(place)).to(space.start)
            some = place < num_prior.max()
            if some.any():
                prior = Unconstrained(space.model, None, space.args, int(some.sum()), plates=space.plates)
                u[some] = prior.start.where((place[some, None] < num_prior)[..., None], u[some])
            yield u

    return draws(), num_prior / total


def _starts(guide: Program, space: Unconstrained, scale: Tensor, number: int) -> Tensor:
    """Return where searches start: mean and best draw of the guide, best draw of the prior, and prior draws far apart.

    Each of the latter is the draw that is farthest from all starts before it, so that every side has one.
    """
    best = _best(space, space.start)[None]
    try:
        drawn = Unconstrained(space.model, guide, space.args, NUM_PILOT, draws_only=True).start
        starts = torch.cat([drawn.mean(0, keepdim=True), _best(space, drawn)[None], best])[:number]
    except ValueError:  # a guide with a point mass or other latents: the prior alone says where to start
        starts = best
    data = torch.arange(best.shape[1], device=best.device)
    while len(starts) < number:
        away = ((space.start[:, None] - starts) / scale).square().sum(-1).amin(1)
        starts = torch.cat([starts, space.start[away.argmax(0), data][None]])
    return starts


def _best(space: Unconstrained, u: Tensor) -> Tensor:
    """Return the draw of the highest log p(x, u) for each datum, shape (B, D)."""
    joint = space.with_data(space.args, len(u))(u).joint.nan_to_num(-math.inf, -math.inf, -math.inf)
    return u[joint.argmax(0), torch.arange(u.shape[1], device=u.device)]
