"""The estimators that the default chooses among, each on one chunk of data: a pilot to judge it by, and scores."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import ClassVar

import torch
from pyro import poutine
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyro_vae.inference.annealing.chains import anneal
from pyro_vae.inference.annealing.path import Annealing
from pyro_vae.inference.annealing.unconstrained import Unconstrained
from pyro_vae.inference.programs.call import Args, Program, fork_rng, rows
from pyro_vae.inference.programs.loop import MOST_PARTICLES, data_at_once, split_particles
from pyro_vae.inference.programs.sites import sample_sites
from pyro_vae.inference.programs.vectorize import find_plates, is_divisible, runs_on_fewer
from pyro_vae.inference.scoring.base import Programs
from pyro_vae.inference.scoring.bridge import Bridge, even_schedule, pilot_run
from pyro_vae.inference.scoring.importance import IW
from pyro_vae.inference.scoring.laplace import Laplace, Weighted, proposal_weights
from pyro_vae.inference.scoring.student import StudentMixture
from pyro_vae.inference.scoring.tail import WeightSummary, summarize, summary_of

NUM_PILOT = 500
"""Draws of an importance sampler on which it is judged."""
FINAL = 5000
"""K of the draws whose k-hat the pilot's is to foretell."""
SPREAD_DRAWS = 256
"""Draws of the guide whose spread stands in where there is no mode."""
PILOT_CHAINS = 128
PILOT_TEMPERATURES = 8
DEGREES_OF_FREEDOM = 10.0
"""Of the Student-t that annealed chains start from; annealing has less use for heavy tails than weighting has."""
VARIANCE = 0.6
"""Variance of log w that annealed paths are made long enough for: k-hat of 200 such weights is above 0.7 at 0.3%."""
LENGTHS = (8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096)
"""Numbers of temperatures that annealed paths may have."""
LONGEST = 128
"""The most of them by default: data that would take more are flagged, and left to AIS."""
SATURATED = 1 / 16
"""Share of effective chains of a pilot run below which log(K / ESS) says too little of the variance of log w."""


class Rung(ABC):
    """One estimator on a chunk of data; data are named by their places in it.

    Attributes:
        no_mode: data of which no mode was found where it was searched for, shape (B,).
        seconds: how long it has taken.
    """

    name: ClassVar[str]

    def __init__(self, programs: Programs, batch: Args) -> None:
        self.programs, self.chunk_size = programs, programs.chunk_size
        self.seconds, self.no_mode = 0.0, torch.zeros(len(batch[0]), dtype=torch.bool)

    @abstractmethod
    def pilot(self, index: Tensor) -> WeightSummary:
        """Return the summary of pilot draws for these data, in ascending order."""

    @abstractmethod
    def scores(self, index: Tensor, num_particles: int) -> Iterator[tuple[Tensor, WeightSummary]]:
        """Yield some of the data, and the summary of their weights, at a time."""

    def timed_pilot(self, index: Tensor) -> WeightSummary:
        """Return the pilot's summary, and count its seconds."""
        start = time.perf_counter()
        summary = self.pilot(index)
        self.seconds += time.perf_counter() - start
        return summary

    def timed_scores(self, index: Tensor, num_particles: int) -> Iterator[tuple[Tensor, WeightSummary]]:
        """Yield the scores, and count their seconds."""
        start = time.perf_counter()
        for part in self.scores(index, num_particles):
            self.seconds += time.perf_counter() - start
            yield part
            start = time.perf_counter()

    def blocks(self, index: Tensor, num_particles: int) -> tuple[Tensor, ...]:
        """Return the data in parts whose particles fit in a chunk."""
        return index.split(data_at_once(len(index), num_particles, self.chunk_size, together=True))


class GuideRung(Rung):
    """Importance weighting with the guide and a share of the prior."""

    name = "guide"

    def __init__(self, programs: Programs, batch: Args, share: float) -> None:
        super().__init__(programs, batch)
        self.batch, self.how = batch, settings_of_guide(programs, batch, share)
        self.divisible = runs_on_fewer(programs.guide, batch) and is_divisible(programs.model, batch)

    def pilot(self, index: Tensor) -> WeightSummary:
        """Return the summary of pilot draws for these data, in ascending order."""
        return self._summary(index, NUM_PILOT, self.how, FINAL)

    def alone(self, index: Tensor) -> WeightSummary:
        """Return the summary of draws of the guide without the prior's share: its ELBO, and its bounds."""
        return self._summary(index, NUM_PILOT, IW())

    def scores(self, index: Tensor, num_particles: int) -> Iterator[tuple[Tensor, WeightSummary]]:
        """Yield some of the data, and the summary of their weights, at a time."""
        yield index, self._summary(index, num_particles, self.how)

    def _summary(self, index: Tensor, num_particles: int, how: IW, further: int = 0) -> WeightSummary:
        """Return the summary of these data, which a program that is tied to their number scores with all others."""
        some = self.divisible and len(index) < len(self.batch[0])
        batch = rows(self.batch, index) if some else self.batch
        counts = split_particles(num_particles, len(batch[0]), self.chunk_size)
        weights = (w.log_w for w in how.weights(self.programs, batch, counts, _ignore))
        summary = summarize(weights, len(batch[0]), num_particles, batch[0].device, further)
        return summary if some else summary.at(index)


class ProposalRung(Rung):
    """Importance weighting under a mixture of Student-t distributions and the prior.

    Attributes:
        index: the data of the last pilot run, ascending.
        mixture: the proposals of these data.
        adapted: those moved towards the pilot's weighted draws.
        found: the summary of these draws.
    """

    index: Tensor
    mixture: StudentMixture
    adapted: StudentMixture
    found: WeightSummary

    def __init__(self, share: float, programs: Programs, space: Unconstrained) -> None:
        super().__init__(programs, space.args)
        self.share, self.space = share, space

    def places(self, index: Tensor) -> Tensor:
        """Return where data are among those of the last pilot run."""
        return torch.searchsorted(self.index, index)

    def scores(self, index: Tensor, num_particles: int) -> Iterator[tuple[Tensor, WeightSummary]]:
        """Yield some of the data, and the summary of their weights, at a time."""
        for part in self.blocks(index, MOST_PARTICLES):
            weights = self._draws(part, self.mixture.at(self.places(part)), num_particles)
            yield part, summarize((w.log_w for w in weights), len(part), num_particles, self.space.start.device)

    def try_out(self, index: Tensor, mixture: StudentMixture) -> WeightSummary:
        """Judge a mixture by pilot draws, keep it, and adapt it to them."""
        summaries, adapted = [], []
        for part in self.blocks(torch.arange(len(index)), NUM_PILOT):
            here = mixture.at(part)
            draws = list(self._draws(index[part], here, NUM_PILOT))
            u, log_w, log_prior = (torch.cat([getattr(d, n) for d in draws]) for n in ("u", "log_w", "log_prior"))
            summaries.append(summary_of(log_w, FINAL))
            adapted.append(here.adapted(u.double(), log_w, log_prior))
        self.index, self.mixture, self.adapted = index, mixture, StudentMixture.join(adapted)
        self.found = WeightSummary.join(summaries)
        return self.found

    def _draws(self, index: Tensor, mixture: StudentMixture, num_particles: int) -> Iterator[Weighted]:
        """Yield draws of the proposals of these data, and their log weights."""
        counts = split_particles(num_particles, len(index), self.chunk_size)
        yield from proposal_weights(self.space.at(index), mixture, counts)


class LaplaceRung(ProposalRung):
    """Proposals at the modes; where there is none, at the highest point, beside the moments of the guide's draws."""

    name = "laplace"

    def pilot(self, index: Tensor) -> WeightSummary:
        """Return the summary of pilot draws for these data, in ascending order."""
        how, space = Laplace(defensive=self.share), self.space.at(index)
        instead = spread_of_draws(self.programs.guide, space, how)
        try:
            mixture, found = how.proposal(self.programs, space)
        except ValueError:  # the model cannot be differentiated twice
            self.no_mode[index] = True
            return self.try_out(index, instead)
        self.no_mode[index] = ~found.cpu()
        return self.try_out(index, mixture.put(~found, mixture.beside(instead).at(~found)))


class AdaptedRung(ProposalRung):
    """Those moved twice towards weighted pilot draws."""

    name = "adapted"

    def __init__(self, share: float, programs: Programs, space: Unconstrained, before: LaplaceRung) -> None:
        super().__init__(share, programs, space)
        self.before = before

    def pilot(self, index: Tensor) -> WeightSummary:
        """Adapt twice; where fewer draws than dimensions carry the weight once, and without a trial of its own."""
        places = self.before.places(index)
        before, found = self.before.adapted.at(places), self.before.found.at(places)
        able = found.ess >= self.space.dim
        found = replace(found, khat=torch.full_like(found.khat, math.inf))
        if able.any():
            self.try_out(index[able], before.at(able))
            found = found.put(able, self.try_out(index[able], self.adapted))
            self.mixture, self.adapted = before.put(able, self.mixture), before.put(able, self.adapted)
        else:
            self.mixture = self.adapted = before
        self.index = index
        return found


def _pilot_paths(run: Callable[[int], Tensor], longest: int | None) -> tuple[Tensor, Tensor]:
    """Return log weights of pilot chains, and how many temperatures each datum's path is to have.

    Where ``longest`` is given, pilots whose weights rest on a few chains are run again on paths four times as long.

    Args:
        run: log weights, shape (K, B), of pilot chains on paths of so many temperatures.
        longest: temperatures of a path at most.
    """
    temperatures, log_w = PILOT_TEMPERATURES, run(PILOT_TEMPERATURES)
    while longest and 8 * temperatures <= longest and is_saturated(log_w):
        temperatures = 4 * temperatures
        log_w = run(temperatures)
    return log_w, path_lengths(log_w, temperatures, longest or LONGEST).cpu()


class AnnealedRung(ProposalRung):
    """Chains annealed from there, from proposals that are moved once more to where pilot chains end."""

    name = "annealed"

    def __init__(
        self,
        share: float,
        programs: Programs,
        space: Unconstrained,
        before: AdaptedRung,
        num_chains: int,
        longest: int | None,
    ) -> None:
        super().__init__(share, programs, space)
        self.before, self.num_chains, self.longest = before, num_chains, longest

    def pilot(self, index: Tensor) -> WeightSummary:
        """Return the summary of pilot draws for these data, in ascending order."""
        start = replace(self.before.adapted.at(self.before.places(index)), df=DEGREES_OF_FREEDOM)
        self.index, self.mixture = index, start
        log_w, self.lengths = _pilot_paths(partial(self._run_pilots, index), self.longest)
        return summary_of(log_w)

    def _run_pilots(self, index: Tensor, temperatures: int) -> Tensor:
        """Run pilot chains, tune to them and move the proposals to where they end; return their log weights."""
        runs, moved = [], []
        for part in self.blocks(index, PILOT_CHAINS):
            run = pilot_run(self._path(part, PILOT_CHAINS, temperatures), temperatures)
            runs.append(run)
            moved.append(self.mixture.at(self.places(part)).adapted(run.u, run.log_w, run.log_prior))
        self.mixture = StudentMixture.join(moved)
        self.tuning = replace(runs[0].tuning, step_sizes=torch.cat([run.tuning.step_sizes for run in runs], 1))
        return torch.cat([run.log_w for run in runs], 1)

    def scores(self, index: Tensor, num_particles: int) -> Iterator[tuple[Tensor, WeightSummary]]:
        """Yield some of the data, and the summary of their weights, at a time."""
        chains, lengths = self.num_chains, self.lengths[self.places(index)]
        for length in lengths.unique().tolist():
            for part in self.blocks(index[lengths == length], chains):
                path = self._path(part, chains, length)
                tuning = replace(self.tuning, step_sizes=self.tuning.step_sizes[:, self.places(part)])
                log_w = path.follow(path.start, even_schedule(length), tuning).log_w
                yield part, summary_of(log_w.where(~path.lost, -math.inf))

    def _path(self, index: Tensor, chains: int, temperatures: int) -> Bridge:
        return Bridge(self.space.at(index), self.mixture.at(self.places(index)), chains, temperatures)


class FromGuideRung(Rung):
    """Chains from the guide, or from the prior where the guide cannot be where they start."""

    name = "annealed"

    def __init__(
        self, programs: Programs, batch: Args, num_chains: int, longest: int | None, start: str = "guide"
    ) -> None:
        super().__init__(programs, batch)
        self.batch, self.num_chains, self.longest, self.start = batch, num_chains, longest, start
        if start == "prior":
            self.depth = find_plates(programs.model, None, batch)
            return
        try:
            self.depth = find_plates(programs.model, programs.guide, batch)
            Unconstrained(programs.model, programs.guide, batch, 2, plates=self.depth)
        except ValueError:
            self.start, self.depth = "prior", find_plates(programs.model, None, batch)

    def pilot(self, index: Tensor) -> WeightSummary:
        """Return the summary of pilot draws for these data, in ascending order."""
        self.index = index
        log_w, self.lengths = _pilot_paths(partial(self._run_pilots, index), self.longest)
        return summary_of(log_w)

    def _run_pilots(self, index: Tensor, temperatures: int) -> Tensor:
        parts = self.blocks(index, PILOT_CHAINS)
        return torch.cat([self._anneal(part, PILOT_CHAINS, temperatures) for part in parts], 1)

    def scores(self, index: Tensor, num_particles: int) -> Iterator[tuple[Tensor, WeightSummary]]:
        """Yield some of the data, and the summary of their weights, at a time."""
        lengths = self.lengths[torch.searchsorted(self.index, index)]
        for length in lengths.unique().tolist():
            for part in self.blocks(index[lengths == length], self.num_chains):
                yield part, summary_of(self._anneal(part, self.num_chains, length))

    def _anneal(self, index: Tensor, chains: int, length: int) -> Tensor:
        settings = Annealing(length, start=self.start)
        batch = rows(self.batch, index)
        return anneal(
            self.programs.model, self.programs.guide, batch, chains, settings=settings, plates=self.depth
        ).log_w


def settings_of_guide(programs: Programs, batch: Args, share: float) -> IW:
    """Return importance weighting with the guide and a share of the prior, or without where it has auxiliary sites."""
    guide = programs.guide
    with poutine.block(), fork_rng(batch[0].device):
        trace = poutine.util.prune_subsample_sites(poutine.trace(guide).get_trace(*batch))
        sites = sample_sites(trace)
        auxiliary = any(site["infer"].get("is_auxiliary") for site in sites.values())
        plain = not sites or auxiliary or not _scores_given(guide, trace, batch)
    return IW() if plain else IW(defensive=share)


def _scores_given(guide: Program, trace: Trace, batch: Args) -> bool:
    """Say whether a guide can score values that it did not draw, as a flow without an inverse cannot."""
    values = {name: site["value"].clone() for name, site in sample_sites(trace).items()}
    try:
        poutine.trace(poutine.condition(guide, data=values)).get_trace(*batch).compute_log_prob()
    except (KeyError, NotImplementedError):
        return False
    return True


def is_saturated(log_w: Tensor) -> bool:
    """Say whether too few of some datum's chains, log weights (K, B), carry the weight to foretell a length."""
    share = log_w.softmax(0).nan_to_num(1.0)
    return bool((share.square().sum(0) * len(log_w) * SATURATED > 1).any())


def path_lengths(log_w: Tensor, temperatures: int = PILOT_TEMPERATURES, longest: int = LONGEST) -> Tensor:
    """Return the number of temperatures that each datum's path takes, by the spread of the pilot's weights.

        T = T_pilot log(K / ESS) / target

    since log(K / ESS) is the variance of log w where this is normal, and falls as 1 / T.

    Args:
        log_w: of the pilot run, shape (K, B).
        temperatures: T_pilot.
        longest: the most that is returned.
    """
    share = log_w.softmax(0).nan_to_num(1.0)
    spread = (len(log_w) * share.square().sum(0)).log()
    lengths = torch.tensor(LENGTHS, device=log_w.device)
    wanted = (temperatures * spread / VARIANCE).clamp(max=longest)
    return lengths[torch.searchsorted(lengths, wanted).clamp(max=len(lengths) - 1)].clamp(max=longest)


def spread_of_draws(guide: Program, space: Unconstrained, how: Laplace) -> StudentMixture:
    """Return one Student-t for each datum with location and covariance of draws of the guide, or of the prior."""
    try:
        u = Unconstrained(space.model, guide, space.args, SPREAD_DRAWS, draws_only=True).start.double()
    except ValueError:
        u = Unconstrained(space.model, None, space.args, SPREAD_DRAWS, plates=space.plates).start.double()
    loc = u.mean(0)
    away = (u - loc) / math.sqrt(len(u))
    covariance = torch.einsum("kbi,kbj->bij", away, away)
    covariance = covariance + torch.diag_embed(1e-3 * covariance.diagonal(dim1=-2, dim2=-1).clamp(min=1e-12))
    shares = torch.zeros_like(loc[None, :, 0]), torch.full_like(loc[:, 0], how.defensive)
    return StudentMixture.at_covariance(shares[0], loc[None], covariance[None], shares[1], how.df)


def _ignore(done: int) -> None:
    """Take no note of what is done of a part."""
