"""Hamiltonian Monte Carlo on tensors: every particle and datum is a chain, and all of them move at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Target = Callable[[Tensor], tuple[Tensor, Tensor]]
"""u (K, B, D) -> terms of the log density (C, K, B) and their gradients (C, K, B, D); NaN, never an error."""


@dataclass(frozen=True)
class Point:
    """Positions of all chains, with the terms of their log densities and gradients kept for the next move.

    The log density is a mixture sum_c a_c f_c(u) of C terms, so that along an annealing path, where only the
    coefficients change, nothing is evaluated twice.

    Attributes:
        position: u, shape (K, B, D).
        terms: f_c(u), shape (C, K, B), in nats.
        gradients: of each term, shape (C, K, B, D).
    """

    position: Tensor
    terms: Tensor
    gradients: Tensor

    @classmethod
    def at(cls, position: Tensor, target: Target) -> Point:
        """Evaluate the target at a position."""
        position = position.detach()
        return cls(position, *target(position))

    def log_density(self, coefficients: Sequence[float]) -> Tensor:
        """Return sum_c a_c f_c(u), shape (K, B)."""
        return _mixed(coefficients, self.terms)

    def gradient(self, coefficients: Sequence[float]) -> Tensor:
        """Return its gradient, shape (K, B, D)."""
        return _mixed(coefficients, self.gradients)

    def where(self, chosen: Tensor, other: Point) -> Point:
        """Return the chains that are chosen, shape (K, B), and for the rest those of another point."""
        wide = chosen[..., None]
        return Point(
            self.position.where(wide, other.position),
            self.terms.where(chosen, other.terms),
            self.gradients.where(wide, other.gradients),
        )


def leapfrog(
    point: Point,
    momentum: Tensor,
    coefficients: Sequence[float],
    target: Target,
    step_size: Tensor,
    num_steps: int,
    scale: Tensor | float = 1.0,
) -> tuple[Point, Tensor]:
    """Follow Hamilton's equations for L steps: reversible, and volume is preserved.

        p <- p + (e s / 2) grad log f(u);   u <- u + e s p;   p <- p + (e s / 2) grad log f(u)

    Args:
        point: where to start.
        momentum: p, shape (K, B, D).
        coefficients: a_c of the log density.
        target: the terms of the log density; called L times.
        step_size: e, shape (B,) or (K, B).
        num_steps: L.
        scale: s, the diagonal preconditioner, broadcast with (B, D).

    Returns:
        the end point and momentum.

    Source: Neal (2011), MCMC Using Hamiltonian Dynamics, section 2.3.
    """
    size = step_size[..., None] * scale
    momentum = momentum + size / 2 * point.gradient(coefficients)
    for i in range(1, num_steps + 1):
        point = Point.at(point.position + size * momentum, target)
        momentum = momentum + (size if i < num_steps else size / 2) * point.gradient(coefficients)
    return point, momentum


def transition(
    point: Point,
    coefficients: Sequence[float],
    target: Target,
    step_size: Tensor,
    num_steps: int,
    scale: Tensor | float = 1.0,
) -> tuple[Point, Tensor]:
    """Move every chain by one HMC transition, which leaves exp(log f) invariant and is reversible.

    The momentum is drawn anew, p ~ N(0, I), and the end of the trajectory accepted with probability
    min(1, exp(H(u, p) - H(u', p'))), H = -log f(u) + |p|^2 / 2. A trajectory that diverges to NaN or infinity is
    rejected.

    Args:
        point: where the chains are.
        coefficients: a_c of the log density.
        target: its terms; called L times, and not at the start.
        step_size: e, shape (B,) or (K, B).
        num_steps: L.
        scale: the diagonal preconditioner, about the standard deviation of u, broadcast with (B, D).

    Returns:
        the new point, and the acceptance probabilities, shape (K, B).

    Source: Neal (2011), MCMC Using Hamiltonian Dynamics, section 3.2; the preconditioner, section 4.1.
    """
    momentum = torch.randn_like(point.position)
    end, end_momentum = leapfrog(point, momentum, coefficients, target, step_size, num_steps, scale)
    log_ratio = end.log_density(coefficients) - _kinetic(end_momentum)
    log_ratio = log_ratio - point.log_density(coefficients) + _kinetic(momentum)
    usable = end.terms.isfinite().all(0) & ~log_ratio.isnan()
    acceptance = log_ratio.clamp(max=0).exp().where(usable, 0.0)
    accepted = torch.rand_like(acceptance) < acceptance
    return end.where(accepted, point), acceptance


def _kinetic(momentum: Tensor) -> Tensor:
    return momentum.square().sum(-1) / 2


def _mixed(coefficients: Sequence[float], values: Tensor) -> Tensor:
    """Return sum_c a_c values_c; a term of coefficient 0 does not count even where it is infinite."""
    terms = [a * value if a != 1 else value for a, value in zip(coefficients, values, strict=True) if a != 0]
    return sum(terms[1:], terms[0])
