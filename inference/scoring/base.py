"""What an estimator of log p(x) is: where its weights come from, and what is made of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from pyro_vae.inference.compile.record import CannotCompileError
from pyro_vae.inference.programs.call import Args, Program
from pyro_vae.inference.programs.loop import data_at_once, split_particles
from pyro_vae.inference.programs.plates import Plates
from pyro_vae.inference.scoring.tail import WeightStream, WeightSummary


@dataclass(frozen=True)
class Programs:
    """A model, a guide, and how many batch dimensions they use.

    Attributes:
        model: Pyro program for p(x, z).
        guide: Pyro program for q(z | x).
        plates: how the programs' plates lie, and how particles run; None where there is a single one, and nobody asks.
        compiled: what the method's ``compile`` returned, where it was asked to.
        chunk_size: largest number of (particle, datum) pairs in memory at once.
    """

    model: Program
    guide: Program
    plates: Plates | None
    compiled: Any = None
    chunk_size: int = 10_000


@dataclass(frozen=True)
class Weights:
    """A chunk of log weights, of shape (k, B), and the rate at which its proposals were accepted, if any were."""

    log_w: Tensor
    acceptance: Tensor | None = None


@dataclass(frozen=True)
class Estimator(ABC):
    """Base class of the estimators of log p(x), which reduce unbiased weights of each datum to an estimate."""

    default_particles: ClassVar[int] = 5000
    """K where none is given."""
    debiased: ClassVar[bool] = False
    """Whether the bias of first order is taken off."""
    title: ClassVar[str]
    """The estimator's name in words."""
    estimators: ClassVar[tuple[str, ...]] = ()
    """Names of those among which it chooses for each datum, where it does."""

    @abstractmethod
    def summarize(
        self, programs: Programs, batch: Args, num_particles: int, advance: Callable[[int], object]
    ) -> WeightSummary:
        """Return the estimates for one chunk of data.

        Args:
            programs: the programs.
            batch: arguments of the programs, B data.
            num_particles: K.
            advance: called with the number of weights done since the last call; B K in all.
        """

    @abstractmethod
    def data_at_once(self, num_data: int, num_particles: int, chunk_size: int) -> int:
        """Return the number of data in a chunk.

        Args:
            num_data: N, more than which is never returned.
            num_particles: K.
            chunk_size: largest number of (particle, datum) pairs in memory at once.
        """

    def compile(self, programs: Programs, chunk: Args, other: Args, count: int) -> Any:
        """Return what takes all the time as one compiled graph, which ``summarize`` finds in the programs.

        Args:
            programs: the programs.
            chunk: a chunk of data, of the shape that is compiled.
            other: another of this shape, on which the graph is compared with the programs.
            count: particles in a chunk; chunks of other sizes run as they are.

        Raises:
            CannotCompileError: where there is no such thing, or the programs have to run as they are.
        """
        raise CannotCompileError(f"{self} makes its weights in many steps")

    @property
    def steps_per_particle(self) -> int:
        """Rounds of work in one weight, for the progress bar."""
        return 1

    @property
    def particles_of_its_own(self) -> int:
        """Particles for each datum that it runs beside those that are weighed, at most."""
        return 1

    def check(self, model: Program, guide: Program, batch: Args) -> None:  # noqa: B027 - most have nothing to add
        """Refuse programs for which the weights would be wrong, with a ``ValueError``; tried on the first chunk."""

    def notes(self, programs: Programs, batch: Args) -> list[str]:
        """Return what a reader of the result has to know of how it came about with these programs."""
        return []

    def __str__(self) -> str:
        """Return the estimator and its settings in words, for citing."""
        settings = ", ".join(f"{name} {value}" for name, value in asdict(self).items() if value)
        return f"{self.title} ({settings})" if settings else self.title


@dataclass(frozen=True)
class Method(Estimator):
    """Base class of the estimators whose weights come in one stream.

    Each makes unbiased weights, E[w_kn] = p(x_n), which are then reduced to an estimate with its diagnostics.
    """

    @abstractmethod
    def weights(
        self, programs: Programs, batch: Args, counts: list[int], advance: Callable[[int], object]
    ) -> Iterator[Weights]:
        """Yield the log weights of one chunk of data, in chunks of ``counts`` particles.

        Args:
            programs: the programs.
            batch: arguments of the programs, B data.
            counts: particles in each chunk; they add up to K.
            advance: called with the number of weights done since the last call.
        """

    def stream(self, num_data: int, num_particles: int, device: torch.device) -> WeightStream:
        """Return what takes in the log weights of B data and reduces them."""
        return WeightStream(num_data, num_particles, device)

    def summarize(
        self, programs: Programs, batch: Args, num_particles: int, advance: Callable[[int], object]
    ) -> WeightSummary:
        """Return the estimates that the stream of weights gives for one chunk of data."""
        stream = self.stream(len(batch[0]), num_particles, batch[0].device)
        counts = split_particles(num_particles, len(batch[0]), programs.chunk_size)
        for weights in self.weights(programs, batch, counts, advance):
            stream.add(weights.log_w, weights.acceptance)
        return stream.summary()

    def data_at_once(self, num_data: int, num_particles: int, chunk_size: int) -> int:
        """Return the number of data in a chunk, which leaves room for a few hundred particles of each."""
        most = data_at_once(num_data, self.particles_of_its_own, chunk_size, together=True)
        return min(most, data_at_once(num_data, num_particles, chunk_size))
