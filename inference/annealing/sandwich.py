"""Bidirectional Monte Carlo: log p(x) of simulated data between a lower and an upper bound."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vae.core.checks import check_int, check_positive_int
from pyro_vae.inference.annealing.chains import anneal, anneal_back
from pyro_vae.inference.annealing.path import Annealing, start_of
from pyro_vae.inference.annealing.tuning import tune
from pyro_vae.inference.programs.call import Args, Data, Program, check_data, hash_of_values
from pyro_vae.inference.programs.loop import data_at_once, evaluation_on_device, progress_bar, split_data
from pyro_vae.inference.programs.plates import Plates
from pyro_vae.inference.programs.proposals import check_proposal
from pyro_vae.inference.programs.simulate import Simulation, example_data, simulate
from pyro_vae.inference.programs.standard_errors import error_of_log_mean, standard_error
from pyro_vae.inference.programs.vectorize import find_plates


@dataclass(frozen=True)
class Sandwich:
    """Stochastic bounds of log p(x_n) for data simulated from the model, in nats.

    Each bound holds in expectation, E[lower_n] <= log p(x_n) <= E[upper_n]: of a single datum they can cross.

    Attributes:
        lower: log mean_k w_k of chains annealed forwards, shape (N,).
        upper: -log mean_k 1/w_k of chains annealed backwards from the latents that x was drawn with, shape (N,).
        lower_std_error: Monte Carlo standard error of each lower bound, by the delta method, shape (N,).
        upper_std_error: the same of each upper bound, given the latents that its chains start from, shape (N,).
        acceptance: mean acceptance probability of the transitions, forwards and backwards, shape (N,).
        args: the simulated data, as arguments of the programs.
        num_particles: chains K.
        settings: numbers of temperatures and leapfrog steps, and the start.
        seed: the seed it was computed with.
    """

    lower: Tensor
    upper: Tensor
    lower_std_error: Tensor
    upper_std_error: Tensor
    acceptance: Tensor
    args: Args
    num_particles: int
    settings: Annealing
    seed: int

    @property
    def x(self) -> Data:
        """The simulated data as ``evidence`` takes them: a tensor, or a tuple of several."""
        return self.args[0] if len(self.args) == 1 else self.args

    @property
    def gap(self) -> Tensor:
        """Return upper - lower for each datum, shape (N,)."""
        return self.upper - self.lower

    @property
    def mean_lower(self) -> float:
        """Mean of the lower bounds, nats per datum."""
        return self.lower.mean().item()

    @property
    def mean_upper(self) -> float:
        """Mean of the upper bounds, nats per datum."""
        return self.upper.mean().item()

    @property
    def mean_gap(self) -> float:
        """Mean gap, nats per datum: no estimate between the bounds is further off than that."""
        return self.gap.mean().item()

    @property
    def stderr_lower(self) -> float:
        """Standard error of ``mean_lower`` over data and Monte Carlo, s / sqrt(N)."""
        return standard_error(self.lower).item()

    @property
    def stderr_upper(self) -> float:
        """Standard error of ``mean_upper`` over data and Monte Carlo, s / sqrt(N)."""
        return standard_error(self.upper).item()

    @property
    def stderr_gap(self) -> float:
        """Standard error of ``mean_gap``, s / sqrt(N): what the bounds of one datum share cancels in it."""
        return standard_error(self.gap).item()

    def shortfall(self, log_px: Any) -> tuple[float, float]:
        """Return by how much estimates fall short of the lower bound on average, and its standard error.

        Args:
            log_px: an ``evidence`` of ``sandwich.x``, or estimates of shape (N,).

        Returns:
            mean and standard error of lower_n - log_px_n, in nats per datum; positive is missed evidence.
        """
        difference = self.lower - self._values(log_px)
        return difference.mean().item(), standard_error(difference).item()

    def excess(self, log_px: Any) -> tuple[float, float]:
        """Return by how much estimates exceed the upper bound on average, and its standard error.

        Args:
            log_px: an ``evidence`` of ``sandwich.x``, or estimates of shape (N,).

        Returns:
            mean and standard error of log_px_n - upper_n, in nats per datum.
        """
        difference = self._values(log_px) - self.upper
        return difference.mean().item(), standard_error(difference).item()

    def contains(self, log_px: Any, num_std_errors: float = 3.0) -> bool:
        """Say whether estimates of log p(x) lie between the bounds on average, within their standard errors.

        Args:
            log_px: an ``evidence`` of ``sandwich.x``, or estimates of shape (N,).
            num_std_errors: how many standard errors of the differences are allowed for.

        Raises:
            ValueError: if there are not N estimates, or they are of other data.
        """
        sides = (self.shortfall(log_px), self.excess(log_px))
        return all(mean <= num_std_errors * error for mean, error in sides)

    def __str__(self) -> str:
        """Return the result in one line."""
        return (
            f"{self.mean_lower:.3f} +- {self.stderr_lower:.3f} <= log p(x) <= {self.mean_upper:.3f} +- "
            f"{self.stderr_upper:.3f} nats, gap {self.mean_gap:.3f} +- {self.stderr_gap:.3f}  "
            f"(K={self.num_particles}, N={len(self.lower)}, T={self.settings.num_temperatures}, "
            f"acceptance {self.acceptance.mean().item():.2f})"
        )

    def _values(self, log_px: Any) -> Tensor:
        values = torch.as_tensor(getattr(log_px, "log_px", log_px))
        if values.shape != self.lower.shape:
            raise ValueError(
                f"Expected an estimate for each of the {len(self.lower)} simulated data; got shape "
                f"{tuple(values.shape)}. Score them: evidence(model, guide, sandwich.x)."
            )
        scored = getattr(log_px, "data", None)  # of an Evidence the hash of what it scored
        if isinstance(scored, str) and scored and scored != hash_of_values(self.args):
            raise ValueError(
                "Expected estimates of the simulated data in their order; got those of other data. Score them: "
                "evidence(model, guide, sandwich.x)."
            )
        return values.to(self.lower)


def sandwich(
    model: Program,
    guide: Program | None,
    num_data: int,
    *,
    x: Data | None = None,
    num_particles: int = 8,
    num_temperatures: int = 1000,
    num_leapfrog: int = 2,
    start: str = "prior",
    seed: int = 0,
    device: str | torch.device = "auto",
    chunk_size: int = 10_000,
    progress: bool = True,
) -> Sandwich:
    """Bound log p(x) from both sides for data simulated from the model, by bidirectional Monte Carlo.

        lower = log (1/K) sum_k w_k,           z_0 ~ p(z), annealed to p(z|x)
        upper = -log (1/K) sum_k 1 / w'_k,     z ~ p(z|x) exactly, annealed back to p(z)

    Whoever simulates (z, x) from the model holds in z an exact draw of the posterior p(z|x), and chains that are
    annealed back from it give an upper bound. When the gap is small, log p(x) of these data is known, and any
    estimator can be held against it: ``sandwich.contains(evidence(model, guide, sandwich.x))``. A large gap says
    that chains did not mix; more temperatures close it.

    It certifies estimates on data simulated from the model, and says nothing about data of another kind: real
    data may have posteriors that are harder than those of the model's own draws.

    Args:
        model: Pyro program for p(x, z) that observes its data as they were handed in, ``obs=x``.
        guide: Pyro program for q(z | x); never run, and may be None, where the start is the prior.
        num_data: data to simulate N, at least 2.
        x: example data, for programs without an ``event_shape``: their shape matters, and the values of arguments
            that are not observed.
        num_particles: chains K for each datum and direction.
        num_temperatures: steps of the path T.
        num_leapfrog: leapfrog steps of each transition.
        start: "prior" or "guide", where the path starts.
        seed: seed of data and chains; the global generator is left as it was.
        device: "auto" (a GPU where there is one), or a torch device.
        chunk_size: largest number of (particle, datum) pairs in memory at once.
        progress: show a progress bar, where there is a terminal to show it.

    Raises:
        ValueError: for a setting out of range, latents that ``anneal`` refuses, or data that cannot be simulated.

    Source: Grosse, Ghahramani and Adams (2015), Sandwiching the marginal likelihood using bidirectional Monte
    Carlo; Grosse, Ancha and Roy (2016), Measuring the reliability of MCMC inference with bidirectional Monte Carlo.
    """
    settings = Annealing(num_temperatures, num_leapfrog, start)
    check_int(num_data, "num_data", 2, "The spread over data gives the standard errors.")
    check_positive_int(num_particles, "num_particles")
    check_positive_int(chunk_size, "chunk_size")
    example = example_data(model, num_data, x)
    with evaluation_on_device(model, model if guide is None else guide, example, seed, device) as args:
        simulation = simulate(model, args)
        check_data(model, simulation.args)
        size = data_at_once(num_data, num_particles, chunk_size, together=True)
        first, start_guide = tuple(arg[:size] for arg in simulation.args), start_of(guide, settings)
        if start_guide is not None:
            check_proposal(model, start_guide, first)
        plates = find_plates(model, start_guide, first)
        chunks = _chunks(simulation, size)
        total = 2 * num_data * num_particles * num_temperatures
        with progress_bar(total, progress, "sandwich", unit="weight") as bar:
            parts = [
                _bounds(model, start_guide, *chunk, num_particles, settings, plates, bar.update) for chunk in chunks
            ]
    bounds = {name: torch.cat([part[name] for part in parts]).cpu() for name in parts[0]}
    args = tuple(arg.cpu() for arg in simulation.args)
    return Sandwich(**bounds, args=args, num_particles=num_particles, settings=settings, seed=seed)


def _chunks(simulation: Simulation, size: int) -> list[tuple[Args, dict[str, Tensor]]]:
    """Return data and latents in chunks of this number of data."""
    latents = split_data(tuple(simulation.latents.values()), size)
    named = [dict(zip(simulation.latents, values, strict=True)) for values in latents]
    return list(zip(split_data(simulation.args, size), named, strict=True))


def _bounds(
    model: Program,
    guide: Program | None,
    args: Args,
    latents: dict[str, Tensor],
    num_particles: int,
    settings: Annealing,
    plates: Plates,
    advance: Callable[[int], object],
) -> dict[str, Tensor]:
    """Return lower and upper bounds, their standard errors, and acceptance, each of shape (B,)."""
    tuning = tune(model, guide, args, settings=settings, plates=plates)  # sees x alone, not the latents
    common: dict[str, Any] = {"settings": settings, "plates": plates, "tuning": tuning, "advance": advance}
    forwards = anneal(model, guide, args, num_particles, **common)
    backwards = anneal_back(model, guide, args, latents, num_particles, **common)
    lower, lower_error = _log_mean(forwards.log_w)
    upper, upper_error = _log_mean(-backwards.log_w)
    return {
        "lower": lower,
        "upper": -upper,
        "lower_std_error": lower_error,
        "upper_std_error": upper_error,
        "acceptance": (forwards.acceptance + backwards.acceptance) / 2,
    }


def _log_mean(log_w: Tensor) -> tuple[Tensor, Tensor]:
    """Return log mean_k w_k and its standard error by the delta method, NaN for K = 1, each of shape (B,)."""
    count = len(log_w)
    share = log_w.softmax(0)  # w_k / sum w, whose squares add up to 1 / ESS
    return log_w.logsumexp(0) - math.log(count), error_of_log_mean(count * share.square().sum(0), count)
