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
from pyro_vae.inference.scoring.tail import WeightStream


@dataclass(frozen=True)
class Programs:
    """A model, a guide, and how many batch dimensions they use.

    Attributes:
        model: Pyro program for p(x, z).
        guide: Pyro program for q(z | x).
        plate_depth: batch dimensions that the programs' own plates use, 0 to run particles one by one; None where
            there is a single particle, and nobody asks.
        compiled: what the method's ``compile`` returned, where it was asked to.
    """

    model: Program
    guide: Program
    plate_depth: int | None
    compiled: Any = None


@dataclass(frozen=True)
class Weights:
    """A chunk of log weights, of shape (k, B), and the rate at which its proposals were accepted, if any were."""

    log_w: Tensor
    acceptance: Tensor | None = None


@dataclass(frozen=True)
class Method(ABC):
    """Base class of the estimators of log p(x).

    Each makes unbiased weights, E[w_kn] = p(x_n), which are then reduced to an estimate with its diagnostics.
    """

    default_particles: ClassVar[int] = 5000
    """K where none is given."""
    debiased: ClassVar[bool] = False
    """Whether the bias of first order is taken off."""
    title: ClassVar[str]
    """The estimator's name in words."""

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

    def compile(self, programs: Programs, chunk: Args, other: Args, count: int) -> Any:
        """Return what takes all the time as one compiled graph, which ``weights`` finds in the programs.

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
    def particles_of_its_own(self) -> int:
        """Particles for each datum that it runs beside those that are weighed, at most."""
        return 1

    @property
    def steps_per_particle(self) -> int:
        """Rounds of work in one weight, for the progress bar."""
        return 1

    def check(self, model: Program, guide: Program, batch: Args) -> None:  # noqa: B027 - most have nothing to add
        """Refuse programs for which the weights would be wrong, with a ``ValueError``; tried on the first chunk."""

    def stream(self, num_data: int, num_particles: int, device: torch.device) -> WeightStream:
        """Return what takes in the log weights of B data and reduces them."""
        return WeightStream(num_data, num_particles, device)

    def __str__(self) -> str:
        """Return the estimator and its settings in words, for citing."""
        settings = ", ".join(f"{name} {value}" for name, value in asdict(self).items() if value)
        return f"{self.title} ({settings})" if settings else self.title
