"""The path from where chains start to the posterior, its schedule, and the weights of chains that follow it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor

from pyro_vae.core.checks import check_positive_int
from pyro_vae.inference.annealing.hmc import Point, Target, transition
from pyro_vae.inference.annealing.unconstrained import Unconstrained
from pyro_vae.inference.compile.compile import compile_programs, layout
from pyro_vae.inference.compile.record import CannotCompileError, record_if_worthwhile
from pyro_vae.inference.programs.call import Args, Program
from pyro_vae.inference.programs.plates import Plates
from pyro_vae.inference.programs.standard_errors import check_two

STEEPNESS = 4.0
JITTER = 0.2
Advance = Callable[[int], object]
Observe = Callable[[Point, Tensor], object]


@dataclass(frozen=True)
class Annealing:
    """Settings of annealed importance sampling.

    Args:
        num_temperatures: T, the number of steps from the start to p(x, z); 1 is plain importance sampling.
        num_leapfrog: leapfrog steps L of each transition, each one run of the programs. For a given number of runs,
            T L, more temperatures closed the bounds better than longer trajectories in every model tried.
        start: "prior", which no guide can mislead, or "guide", which is nearer to the posterior.
        num_pilot: chains of the pilot run that tunes step sizes, at least 2.

    Raises:
        ValueError: if a setting is out of its range.
    """

    num_temperatures: int = 1000
    num_leapfrog: int = 2
    start: str = "prior"
    num_pilot: int = 4

    def __post_init__(self) -> None:
        check_positive_int(self.num_temperatures, "num_temperatures")
        check_positive_int(self.num_leapfrog, "num_leapfrog")
        check_two(self.num_pilot, "num_pilot")
        if self.start not in ("prior", "guide"):
            raise ValueError(f'Expected start to be "prior" or "guide"; got {self.start!r}.')


@dataclass(frozen=True)
class Tuning:
    """How far chains move at each temperature, found in a pilot run and frozen since.

    Attributes:
        betas: S inverse temperatures, ascending.
        step_sizes: leapfrog step at each of them and for each datum, shape (S, B).
        scales: diagonal preconditioner at each of them, shape (S, D).
    """

    betas: tuple[float, ...]
    step_sizes: Tensor
    scales: Tensor

    def at(self, beta: float) -> tuple[Tensor, Tensor]:
        """Return step sizes (B,) and scale (D,) for an inverse temperature."""
        stage = min(bisect_left(self.betas, beta), len(self.betas) - 1)
        return self.step_sizes[stage], self.scales[stage]


@dataclass(frozen=True)
class Annealed:
    """Chains of annealed importance sampling.

    Attributes:
        log_w: log weights, shape (K, B), in nats.
        acceptance: mean acceptance probability of the transitions, shape (B,); 1 where there are none.
    """

    log_w: Tensor
    acceptance: Tensor


def schedule(num_temperatures: int) -> tuple[float, ...]:
    """Return T + 1 inverse temperatures from 0 to 1, densest at both ends.

        beta_t = (s(delta (2 t / T - 1)) - s(-delta)) / (s(delta) - s(-delta)),   s the logistic function, delta = 4

    Source: Grosse, Ghahramani and Adams (2015), Sandwiching the marginal likelihood using bidirectional Monte Carlo.
    """
    raw = [1 / (1 + math.exp(-STEEPNESS * (2 * t / num_temperatures - 1))) for t in range(num_temperatures + 1)]
    return tuple((value - raw[0]) / (raw[-1] - raw[0]) for value in raw)


class Path(ABC):
    """A geometric path f_0^(1 - beta) f_1^beta between where chains start and p(x, z), as a target of HMC in two terms.

    Attributes:
        start: u of K draws from f_0 for each datum, shape (K, B, D).
        num_leapfrog: leapfrog steps of each transition.
        num_calls: how often the target will be called, about; 0 where it is not to be recorded.
    """

    start: Tensor
    num_leapfrog: int
    num_calls: int

    @cached_property
    def target(self) -> Target:
        """What ``evaluate`` returns at u: compiled where it was, recorded where that pays."""
        return self._compiled_target() or record_if_worthwhile(self.evaluate, self.start, self.num_calls)

    def _compiled_target(self) -> Target | None:
        return None

    @abstractmethod
    def coefficients(self, beta: float) -> tuple[float, float]:
        """Return the coefficients of the two terms at an inverse temperature."""

    @abstractmethod
    def evaluate(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return the two terms at u and their gradients, shapes (2, K, B) and (2, K, B, D): one run of the model.

        Args:
            u: where, shape (K, B, D).
        """

    @abstractmethod
    def ratio(self, point: Point) -> Tensor:
        """Return log f_1 - log f_0, shape (K, B)."""

    def move(self, point: Point, beta: float, step_size: Tensor, scale: Tensor) -> tuple[Point, Tensor]:
        """Take one HMC transition whose step size varies by 20 percent at random, so that no orbit closes."""
        jitter = 1 + JITTER * (2 * torch.rand_like(point.terms[0]) - 1)
        return transition(point, self.coefficients(beta), self.target, step_size * jitter, self.num_leapfrog, scale)

    def follow(
        self,
        start: Tensor,
        betas: Sequence[float],
        tuning: Tuning,
        advance: Advance | None = None,
        observe: Observe | None = None,
    ) -> Annealed:
        """Move chains along inverse temperatures that rise from 0 to 1, or fall, and weigh them.

        Args:
            start: u, shape (K, B, D).
            betas: T + 1 inverse temperatures.
            tuning: step sizes and scales.
            advance: called with K B after each temperature.
            observe: called before each of the T weightings with the point and the log weights so far.
        """
        point = Point.at(start, self.target)
        log_w = torch.zeros_like(point.terms[0], dtype=torch.float64)
        acceptance = []
        for before, after in pairwise(betas):
            if observe is not None:
                observe(point, log_w)
            log_w = log_w + abs(after - before) * self.ratio(point)
            if after != betas[-1]:
                point, accepted = self.move(point, after, *tuning.at(after))
                acceptance.append(accepted.mean(0))
            if advance is not None:
                advance(log_w.numel())
        return Annealed(log_w, _stacked(acceptance, torch.ones_like(log_w[0])).mean(0))


class AnnealingPath(Path):
    """The path between prior or guide and p(x, z).

    From the prior, log f_beta = log p(z) + beta log p(x|z); from the guide, (1 - beta) log q(z|x) + beta log p(x, z).

    Args:
        model: Pyro program for p(x, z).
        guide: Pyro program for q(z | x); may be None where the start is the prior.
        args: their arguments, B data, tensors of shape (B, *event).
        num_particles: chains K.
        settings: numbers of temperatures and leapfrog steps, and the start.
        plates: how the programs' plates lie, and how particles run; found out if None, see ``find_plates``.
        compiled: the path's target compiled, used where chains and data have its shape.
    """

    def __init__(
        self,
        model: Program,
        guide: Program | None,
        args: Args,
        num_particles: int,
        settings: Annealing,
        plates: Plates | None,
        compiled: CompiledTarget | None = None,
    ) -> None:
        self.from_prior = settings.start == "prior"
        self.num_leapfrog = settings.num_leapfrog
        self.space = Unconstrained(model, start_of(guide, settings), args, num_particles, plates=plates)
        self.start = self.space.start
        alone = self.space.one_by_one and self.space.particles is None
        self.num_calls = 0 if alone else settings.num_temperatures * settings.num_leapfrog
        self._compiled = compiled

    def _compiled_target(self) -> Target | None:
        return None if self._compiled is None else self._compiled.at(self.start, self.space.args)

    def coefficients(self, beta: float) -> tuple[float, float]:
        """Return the coefficients of the two terms: (1, beta) from the prior, (1 - beta, beta) from the guide."""
        return (1.0, beta) if self.from_prior else (1.0 - beta, beta)

    @torch.enable_grad()
    def evaluate(self, u: Tensor, *args: Tensor) -> tuple[Tensor, Tensor]:
        """Return the two terms at u and their gradients, shapes (2, K, B) and (2, K, B, D): one run of the model.

        Args:
            u: where, shape (K, B, D).
            args: other data of the same shapes, if any.
        """
        u = u.detach().requires_grad_()
        log = (self.space.with_data(args) if args else self.space)(u)
        return terms_and_gradients((log.prior, log.likelihood) if self.from_prior else (log.guide, log.joint), u)

    def ratio(self, point: Point) -> Tensor:
        """Return log f_1 - log f_0, shape (K, B)."""
        return point.terms[1] if self.from_prior else point.terms[1] - point.terms[0]


def start_of(guide: Program | None, settings: Annealing) -> Program | None:
    """Return the guide where chains start at it, or None for the prior."""
    if settings.start == "guide" and guide is None:
        raise ValueError('Expected a guide to start from; got None. Start from the prior: start="prior".')
    return guide if settings.start == "guide" else None


def terms_and_gradients(terms: tuple[Tensor, Tensor], u: Tensor) -> tuple[Tensor, Tensor]:
    """Return two terms of a target at u and their gradients, shapes (2, K, B) and (2, K, B, D)."""
    gradients = [_gradient(term, u) for term in terms]
    return torch.stack(terms).detach(), torch.stack(gradients)


def _gradient(term: Tensor, u: Tensor) -> Tensor:
    """Return the gradient of each chain's term with respect to its own u, 0 where it does not depend on it."""
    if not term.requires_grad:
        return torch.zeros_like(u)
    return torch.autograd.grad(term.sum(), u, retain_graph=True, materialize_grads=True)[0]


def _stacked(values: list[Tensor], instead: Tensor) -> Tensor:
    return torch.stack(values or [instead])


class CompiledTarget:
    """Log densities of a path and their gradients as one compiled graph, of which the data are inputs.

    Args:
        path: a path with the programs, the number of chains, and the shape of the data.
        other: other data of this shape, on which the graph is compared with the programs.

    Raises:
        CannotCompileError: where the programs have to run as they are.
    """

    def __init__(self, path: AnnealingPath, other: Args) -> None:
        space = path.space
        if space.one_by_one:
            raise CannotCompileError("the particles run one by one")
        example = (space.start.contiguous(), *space.args)
        self._layout = layout(example)
        others = (0.5 * example[0] + 0.25, *other)
        self._graph = compile_programs(space.model, space.guide, path.evaluate, example, others)

    def at(self, start: Tensor, args: Args) -> Target | None:
        """Return the target for these chains and data, None where they have another shape."""
        if layout((start.contiguous(), *args)) != self._layout:
            return None

        def target(u: Tensor) -> tuple[Tensor, Tensor]:
            return cast("tuple[Tensor, Tensor]", self._graph(u.contiguous(), *args))

        return target
