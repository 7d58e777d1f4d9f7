"""Annealed importance sampling as an estimator of log p(x)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

from pyro_vae.inference.annealing.chains import anneal
from pyro_vae.inference.annealing.path import Annealing, AnnealingPath, CompiledTarget, start_of
from pyro_vae.inference.annealing.tuning import tune
from pyro_vae.inference.programs.call import Args, Program
from pyro_vae.inference.programs.proposals import check_proposal
from pyro_vae.inference.programs.vectorize import find_plates
from pyro_vae.inference.scoring.base import Method, Programs, Weights


@dataclass(frozen=True)
class AIS(Annealing, Method):
    """Annealed importance sampling: K chains of Hamiltonian Monte Carlo from the prior or the guide to p(z|x).

    A stochastic lower bound, like importance weighting, which closes with the number of temperatures instead of
    the quality of the guide: started at the prior, it finds modes that a guide misses. One weight costs
    num_temperatures * num_leapfrog gradients of the model.

    Args:
        num_temperatures: T, the number of steps of the path.
        num_leapfrog: leapfrog steps of each transition.
        start: "prior", which no guide can mislead, or "guide", which is nearer to the posterior.
        num_pilot: chains of the pilot run that tunes the step sizes, whose acceptance is aimed at 0.65.

    Raises:
        ValueError: if a setting is out of its range.

    Source: Neal (2001), Annealed Importance Sampling; Wu, Burda, Salakhutdinov and Grosse (2017), On the
    Quantitative Analysis of Decoder-Based Generative Models.
    """

    title: ClassVar = "annealed importance sampling"
    default_particles: ClassVar = 16

    @property
    def steps_per_particle(self) -> int:
        """Rounds of work in one weight, for the progress bar."""
        return self.num_temperatures

    def check(self, model: Program, guide: Program, batch: Args) -> None:
        """Refuse a guide that cannot be where chains start."""
        if self.start == "guide":
            check_proposal(model, guide, batch)

    def weights(
        self, programs: Programs, batch: Args, counts: list[int], advance: Callable[[int], object]
    ) -> Iterator[Weights]:
        """Yield the weights of chains whose step sizes are tuned once for each chunk of data, and then frozen."""
        guide = start_of(programs.guide, self)
        plates = find_plates(programs.model, guide, batch)
        tuning = tune(programs.model, guide, batch, settings=self, plates=plates)
        for count in counts:
            chains = anneal(
                programs.model,
                guide,
                batch,
                count,
                settings=self,
                plates=plates,
                tuning=tuning,
                advance=advance,
                compiled=programs.compiled,
            )
            yield Weights(chains.log_w, chains.acceptance)

    def compile(self, programs: Programs, chunk: Args, other: Args, count: int) -> CompiledTarget:
        """Return the log densities and gradients that chains move by; the pilot run has few of them, and stays."""
        guide = start_of(programs.guide, self)
        plates = find_plates(programs.model, guide, chunk)
        return CompiledTarget(AnnealingPath(programs.model, guide, chunk, count, self, plates), other)
