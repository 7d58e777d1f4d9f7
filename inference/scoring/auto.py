"""The estimator of each datum chosen on pilot draws: the cheapest one that holds."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from pyro_vae.core.checks import check_int
from pyro_vae.inference.annealing.unconstrained import Unconstrained
from pyro_vae.inference.programs.call import Args, Program, short_errors
from pyro_vae.inference.programs.loop import data_at_once, split_data
from pyro_vae.inference.programs.proposals import check_proposal
from pyro_vae.inference.programs.vectorize import find_plates, is_divisible
from pyro_vae.inference.scoring.base import Estimator, Programs
from pyro_vae.inference.scoring.laplace import MOST_DIMENSIONS, Laplace
from pyro_vae.inference.scoring.rungs import (
    NUM_PILOT,
    AdaptedRung,
    AnnealedRung,
    FromGuideRung,
    GuideRung,
    LaplaceRung,
    Rung,
)
from pyro_vae.inference.scoring.tail import KHAT_LIMIT, WeightSummary

HOLDS = 0.5
"""k-hat of the pilot below which a datum may stay with an importance sampler."""
LEAST_ESS = 0.2
"""Share of effective draws of the pilot from which on a datum may stay with an importance sampler."""
NUM_ERRORS = 3.0
"""Standard errors by which the next estimator's pilot has to find more for a datum to move on to it."""
TOLERANCE = 0.02
"""Nats that the next estimator's pilot may find more in any case."""
NUM_DRAWS = 16
"""Draws of the prior for each datum, at some of which searches for modes start."""
MOST_NUMBERS = 1_000_000
"""Entries of the curvatures of the data that are scored at once, at most."""
NAMES = ("guide", "laplace", "adapted", "annealed")


@dataclass(frozen=True)
class Auto(Estimator):
    """For each datum the cheapest estimator that holds: guide, Laplace, Laplace adapted, or chains annealed from there.

        guide     importance weighting with q(z|x) and a share of the prior
        laplace   with Student-t distributions at the posterior's modes and a share of the prior, as ``Laplace``
        adapted   with these moved twice towards weighted pilot draws, and more of the prior where it carries weight
        annealed  annealed importance sampling from the adapted ones

    A datum stays where k-hat of 500 pilot draws is below 0.5, unless the pilot of the next one finds more evidence by
    three standard errors; at the last one it takes chains on a path as long as the pilot's variance of log w asks for.
    All of these choices are made on pilot draws, which are thrown away: given its estimator each datum's weights are
    new draws, and E[w] = p(x).

    Where latents are discrete or improper, or the model is tied to the number of data, there is the guide alone. Data
    without a mode, for which no search found one or the model cannot be differentiated twice, go from the guide to
    Student-t distributions with the moments of its draws, and on from there. With more than 200 latent numbers for each
    datum chains start at the guide.

    Args:
        chains: chains of the annealed paths for each datum: k-hat takes some 200 of them.
        defensive: share of the prior in all proposals, at the least.
        longest: temperatures of an annealed path at most, 128 if absent. Where it is given there is patience: if the
            pilot's weights rest on a few chains, pilots with four times as many temperatures follow, and chains from
            the prior are tried too and taken where their pilot finds clearly more. Joint estimates have 1,024.

    Raises:
        ValueError: for a setting out of its range.

    Source: k-hat: Vehtari, Simpson, Gelman, Yao and Gabry (2024), Pareto Smoothed Importance Sampling; adaptation:
    Cappe, Douc, Guillin, Marin and Robert (2008), Adaptive Importance Sampling in General Mixture Classes; annealing:
    Neal (2001), Annealed Importance Sampling.
    """

    title: ClassVar = "auto"
    estimators: ClassVar = NAMES
    chains: int = 200
    defensive: float = 0.05
    longest: int | None = None

    def __post_init__(self) -> None:
        if self.longest is not None:
            check_int(self.longest, "longest", 1, "It is the number of temperatures of the longest path.")
        check_int(self.chains, "chains", 2, "k-hat of fewer than 200 says little.")
        Laplace(defensive=self.defensive)

    def check(self, model: Program, guide: Program, batch: Args) -> None:
        """Refuse a point mass as a proposal; warn of one that cannot reach what the prior can."""
        check_proposal(model, guide, batch)

    @property
    def particles_of_its_own(self) -> int:
        """Draws of guide and prior for each datum, among which searches for modes start."""
        return Laplace().particles_of_its_own

    def data_at_once(self, num_data: int, num_particles: int, chunk_size: int) -> int:
        """Return how many data are searched for modes at once."""
        return data_at_once(num_data, self.particles_of_its_own, chunk_size, together=True)

    def notes(self, programs: Programs, batch: Args) -> list[str]:
        """Say which estimators there are not for these programs, and why."""
        dim = _latent_numbers(programs.model, batch)
        if isinstance(dim, str):
            return [f"auto has the guide alone: {dim}"]
        most = f"{MOST_DIMENSIONS} at most"
        return [f"auto has no Laplace approximation of {dim} latent numbers: {most}"] if dim > MOST_DIMENSIONS else []

    def summarize(
        self, programs: Programs, batch: Args, num_particles: int, advance: Callable[[int], object]
    ) -> WeightSummary:
        """Choose on pilot draws and score each datum by its estimator, with K = ``chains`` where it is annealed."""
        dim = _latent_numbers(programs.model, batch)
        many = isinstance(dim, str) or dim > MOST_DIMENSIONS
        parts = [batch] if many else split_data(batch, max(1, MOST_NUMBERS // int(dim) ** 2))  # whose curvatures fit
        summaries = []
        for part in parts:
            ladder = _Ladder(self, programs, part, dim)
            choice, first = ladder.choose()
            summaries.append(ladder.score(choice, first, num_particles, advance))
        return WeightSummary.join(summaries)


def _latent_numbers(model: Program, batch: Args) -> int | str:
    """Return the number of latent numbers of a datum, or why there is the guide alone."""
    try:
        with short_errors():
            dim = Unconstrained(model, None, batch, 1).dim
    except ValueError as error:
        return f"{error}"
    return dim if is_divisible(model, batch) else "data have their densities only where all are run together"


@dataclass(frozen=True)
class _Pilot:
    """What pilot draws say of some data, each of shape (b,)."""

    log_px: Tensor
    std_error: Tensor
    khat: Tensor
    ess: Tensor

    @classmethod
    def of(cls, summary: WeightSummary) -> _Pilot:
        return cls(summary.log_px, summary.std_error, summary.khat, summary.ess)

    @property
    def holds(self) -> Tensor:
        """Say whose importance weights look sound by themselves."""
        return (self.khat < HOLDS) & (self.ess >= LEAST_ESS * NUM_PILOT)

    @property
    def sound(self) -> Tensor:
        """Say whose weights are numbers; of others the guide is to say that they are not."""
        return ~self.log_px.isnan() & (self.log_px < math.inf)

    def exceeds(self, other: _Pilot) -> Tensor:
        """Say where these draws found more than others did, by more than chance."""
        error = (self.std_error.square() + other.std_error.square()).sqrt().nan_to_num(0.0)  # NaN of weights all 0
        return self.log_px - other.log_px > TOLERANCE + NUM_ERRORS * error

    def at(self, index: Tensor) -> _Pilot:
        return _Pilot(self.log_px[index], self.std_error[index], self.khat[index], self.ess[index])


def _chosen(pilots: list[_Pilot], choice: Tensor) -> _Pilot:
    """Return what the pilots of the estimators that are chosen say, by their numbers, shape (b,)."""
    names = ("log_px", "std_error", "khat", "ess")
    return _Pilot(*(torch.stack([getattr(p, name) for p in pilots]).gather(0, choice[None])[0] for name in names))


def _best(pilots: list[_Pilot]) -> Tensor:
    """Return for data at the last estimator its number, or that of an earlier one whose pilot found clearly more.

    All are bounds in expectation, so that the one that is highest by more than chance is the best; where the last one's
    weights look sound, those of an earlier one have to look so too.
    """
    last = pilots[-1]
    allowed = [pilot.exceeds(last) & ((pilot.khat < KHAT_LIMIT) | ~(last.khat < KHAT_LIMIT)) for pilot in pilots[:-1]]
    found = [pilot.log_px.where(may, -math.inf) for pilot, may in zip(pilots[:-1], allowed, strict=True)]
    highest = torch.stack([*found, last.log_px]).nan_to_num(-math.inf, math.inf, -math.inf)
    return highest.argmax(0).where(torch.stack(allowed).any(0), len(pilots) - 1)


class _Ladder:
    """The estimators on one chunk of data, from the cheapest on.

    Args:
        settings: those of ``Auto``.
        programs: model and guide.
        batch: B data.
        dim: latent numbers of each, or why there is the guide alone.
    """

    def __init__(self, settings: Auto, programs: Programs, batch: Args, dim: int | str) -> None:
        self.num_data = len(batch[0])
        self.guide = GuideRung(programs, batch, settings.defensive)
        self.rungs: list[Rung] = [self.guide]
        self.reserve: FromGuideRung | None = None
        if isinstance(dim, str):
            return
        if dim > MOST_DIMENSIONS:
            self.rungs.append(FromGuideRung(programs, batch, settings.chains, settings.longest))
            return
        depth = find_plates(programs.model, None, batch)
        space = Unconstrained(programs.model, None, batch, NUM_DRAWS, plates=depth)
        laplace = LaplaceRung(settings.defensive, programs, space)
        adapted = AdaptedRung(settings.defensive, programs, space, laplace)
        how = settings.chains, settings.longest
        self.rungs += [laplace, adapted, AnnealedRung(settings.defensive, programs, space, adapted, *how)]
        if settings.longest:
            self.reserve = FromGuideRung(programs, batch, *how, start="prior")

    def choose(self) -> tuple[Tensor, WeightSummary]:
        """Return the rung of each datum, shape (B,), and what draws of the guide alone give."""
        choice, left = torch.zeros(self.num_data, dtype=torch.long), torch.arange(self.num_data)
        pilots = [_Pilot.of(self.rungs[0].timed_pilot(left))]
        first = self.guide.alone(left)
        for i, rung in enumerate(self.rungs[1:], 1):
            found = _Pilot.of(rung.timed_pilot(left))
            moves = (~pilots[-1].holds | found.exceeds(pilots[-1])) & pilots[0].sound
            choice[left[moves]], left = i, left[moves]
            pilots = [pilot.at(moves) for pilot in [*pilots, found]]
            if not len(left):
                break
        if len(left) and len(pilots) > 1:
            choice[left] = best = _best(pilots)
            if self.reserve is not None:
                found = _Pilot.of(self.reserve.timed_pilot(left))
                choice[left[found.exceeds(_chosen(pilots, best))]] = len(self.rungs)
        self.rungs += [] if self.reserve is None else [self.reserve]
        return choice, first

    def score(
        self, choice: Tensor, first: WeightSummary, num_particles: int, advance: Callable[[int], object]
    ) -> WeightSummary:
        """Return the summary of all data, each scored with new draws by the rung that was chosen for it."""
        parts: list[tuple[Tensor, WeightSummary]] = []
        for i, rung in enumerate(self.rungs):
            index = (choice == i).nonzero()[:, 0]
            for part in rung.timed_scores(index, num_particles) if len(index) else ():
                parts.append(part)
                advance(len(part[0]) * num_particles)
        summaries = [replace(summary, bounds={}) for _, summary in parts]
        scores = WeightSummary.join(summaries).at(torch.cat([index for index, _ in parts]).argsort())
        seconds = {name: sum((rung.seconds for rung in self.rungs if rung.name == name), 0.0) for name in NAMES}
        return replace(
            scores,
            elbo=first.elbo,
            bounds=first.bounds,
            choice=torch.tensor([NAMES.index(rung.name) for rung in self.rungs])[choice],
            no_mode=torch.stack([rung.no_mode for rung in self.rungs]).any(0),
            seconds=seconds,
        )
