"""The result of a sandwich: bounds of log p(x) of simulated data, to hold any other estimate against."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_vae.inference.annealing.path import Annealing
from pyro_vae.inference.annealing.unconstrained import Args
from pyro_vae.inference.programs.call import Data
from pyro_vae.inference.scoring.estimates import Evidence, standard_error


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
        return standard_error(self.lower)

    @property
    def stderr_upper(self) -> float:
        """Standard error of ``mean_upper`` over data and Monte Carlo, s / sqrt(N)."""
        return standard_error(self.upper)

    @property
    def stderr_gap(self) -> float:
        """Standard error of ``mean_gap``, s / sqrt(N): what the bounds of one datum share cancels in it."""
        return standard_error(self.gap)

    def shortfall(self, log_px: Evidence | Tensor) -> tuple[float, float]:
        """Return by how much estimates fall short of the lower bound on average, and its standard error.

        Args:
            log_px: an ``evidence`` of ``sandwich.x``, or estimates of shape (N,).

        Returns:
            mean and standard error of lower_n - log_px_n, in nats per datum; positive is missed evidence.
        """
        difference = self.lower - self._values(log_px)
        return difference.mean().item(), standard_error(difference)

    def excess(self, log_px: Evidence | Tensor) -> tuple[float, float]:
        """Return by how much estimates exceed the upper bound on average, and its standard error.

        Args:
            log_px: as in ``shortfall``.

        Returns:
            mean and standard error of log_px_n - upper_n, in nats per datum.
        """
        difference = self._values(log_px) - self.upper
        return difference.mean().item(), standard_error(difference)

    def contains(self, log_px: Evidence | Tensor, num_std_errors: float = 3.0) -> bool:
        """Say whether estimates of log p(x) lie between the bounds on average, within their standard errors.

        Args:
            log_px: as in ``shortfall``.
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

    def _values(self, log_px: Evidence | Tensor) -> Tensor:
        values = log_px.log_px if isinstance(log_px, Evidence) else torch.as_tensor(log_px)
        if values.shape != self.lower.shape:
            raise ValueError(
                f"Expected an estimate for each of the {len(self.lower)} simulated data; got shape "
                f"{tuple(values.shape)}. Score them: evidence(model, guide, sandwich.x)."
            )
        return values.to(self.lower)
