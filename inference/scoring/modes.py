"""Modes of each datum's posterior, searched from several starts at once, and the proposal at them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_vae.inference.annealing.unconstrained import Unconstrained
from pyro_vae.inference.programs.vectorize import is_divisible
from pyro_vae.inference.scoring.student import StudentMixture

FIRST_STEPS = 60
"""Steps of Adam before Newton's, which bring every start into the basin of some mode."""
CONVERGED = 1e-4
"""Nats that a step still promises below which the search for a mode ends."""
AT_MODE = 1e-2
"""Nats that a full Newton step may still promise where a search is said to have found a mode."""
FLOOR = 1e-6
"""Least eigenvalue of a negative Hessian, as a share of its largest: along flat directions the prior's share draws."""
SAME = 1.0
"""Squared Mahalanobis distance, by dimension, within which two modes are one."""
LEAST_MASS = 1e-4
"""Share of the Laplace approximation below which a mode is left out."""


@dataclass(frozen=True)
class Modes:
    """Tops of log p(x, u) that S searches came to, for each of B data, in float64.

    Attributes:
        u: positions, shape (S, B, D).
        value: log p(x, u), shape (S, B).
        eigenvalues: those of the negative Hessian by u / scale, raised to at least ``FLOOR``, shape (S, B, D).
        eigenvectors: shape (S, B, D, D).
        scale: of each dimension, so that its unit does not matter, shape (D,).
        found: whether the search ended at a mode, shape (S, B).
    """

    u: Tensor
    value: Tensor
    eigenvalues: Tensor
    eigenvectors: Tensor
    scale: Tensor
    found: Tensor

    @property
    def log_mass(self) -> Tensor:
        """Log of Laplace's approximation to p(x) at each of them, up to a constant, shape (S, B)."""
        return self.value - self.eigenvalues.log().sum(-1) / 2

    def mixture(self, df: float, from_prior: float) -> StudentMixture:
        """Return Student-t distributions at the different modes, in the proportions of Laplace's approximation.

        Where no search found a mode, that which came highest counts as one.

        Args:
            df: degrees of freedom.
            from_prior: the share of the prior.
        """
        counted = self.found | ~self.found.any(0)
        log_mass = self.log_mass.where(counted, -math.inf).nan_to_num(-math.inf, -math.inf, -math.inf)
        order = log_mass.argsort(0, descending=True)
        log_mass = self._without_repeats(order, log_mass.gather(0, order))
        log_shares = log_mass.log_softmax(0)
        log_shares = log_shares.where(log_shares > math.log(LEAST_MASS), -math.inf)
        log_shares[0] = log_shares[0].nan_to_num(0.0).where(log_shares.isfinite().any(0), 0.0)
        kept = log_shares.isfinite().any(1)
        order, log_shares = order[kept], log_shares[kept].log_softmax(0)
        roots = _take(self.eigenvalues, order).sqrt()
        vectors = _take(self.eigenvectors, order)
        return StudentMixture(
            log_shares,
            _take(self.u, order),
            self.scale[:, None] * vectors / roots[..., None, :],
            roots[..., None] * vectors.mT / self.scale,
            torch.full_like(log_shares[0], from_prior),
            df,
        )

    def _without_repeats(self, order: Tensor, log_mass: Tensor) -> Tensor:
        """Return the masses in order, -inf where a heavier one is at the same mode."""
        u, values, vectors = (_take(part, order) for part in (self.u, self.eigenvalues, self.eigenvectors))
        for s in range(1, len(u)):
            along = torch.einsum("tbji,tbj->tbi", vectors[:s], (u[s] - u[:s]) / self.scale)
            distance = (along.square() * values[:s]).mean(-1).where(log_mass[:s].isfinite(), math.inf)
            log_mass[s] = log_mass[s].where((distance > SAME).all(0), -math.inf)
        return log_mass


def _take(values: Tensor, order: Tensor) -> Tensor:
    """Return values (S, B, ...) in another order of the searches, (T, B)."""
    return values.gather(
        0, order.reshape(*order.shape, *[1] * (values.ndim - 2)).expand(*order.shape, *values.shape[2:])
    )


def find_modes(space: Unconstrained, start: Tensor, scale: Tensor, steps: int) -> Modes:
    """Climb log p(x, u) from several starts for each datum, by Adam into the basins, then by Newton steps.

    Args:
        space: the programs as functions of u, with as many particles as there are starts.
        start: where from, shape (S, B, D).
        scale: of each dimension, shape (D,), such as the prior's standard deviations.
        steps: Newton steps at most.

    Raises:
        ValueError: if torch has no second derivative of the model.
    """
    climb = _Climb(space, _approach(space, start, scale), scale.double())
    active = torch.arange(start.shape[1], device=start.device)
    divisible = is_divisible(space.model, space.args)
    for _ in range(steps):
        unfinished = climb.step(active) >= CONVERGED
        if not unfinished.any():
            break
        active = active[unfinished] if divisible else active
    values, vectors = torch.linalg.eigh(climb.curvature)
    along = (climb.gradient[..., None, :] @ vectors)[..., 0, :]
    largest = values.abs().amax(-1, keepdim=True).clamp(min=1e-30)
    left = (along.square() / values.abs().maximum(FLOOR * largest)).sum(-1) / 2
    found = (values > FLOOR * largest).all(-1) & (left < AT_MODE) & climb.value.isfinite()
    return Modes(climb.u, climb.value, values.maximum(FLOOR * largest), vectors, climb.scale, found)


@torch.enable_grad()
def _approach(space: Unconstrained, start: Tensor, scale: Tensor) -> Tensor:
    """Return where Adam comes from each start, its steps falling to 0 as a cosine; best on the way, shape (S, B, D)."""
    moved = torch.zeros_like(start, requires_grad=True)
    optimizer = torch.optim.Adam([moved], lr=0.3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, FIRST_STEPS)
    for _ in range(FIRST_STEPS):
        joint = space(start + scale * moved).joint
        (gradient,) = torch.autograd.grad(-joint.sum(), moved)
        moved.grad = gradient.nan_to_num(0.0, 0.0, 0.0)
        optimizer.step()
        schedule.step()
    return (start + scale * moved).detach()


class _Climb:
    """Positions of all searches on their way to the modes, with value, gradient and curvature of log p(x, u) there."""

    def __init__(self, space: Unconstrained, start: Tensor, scale: Tensor) -> None:
        self.space, self.u, self.scale = space, start.double(), scale
        self.value, self.gradient, self.curvature = _expand(space, self.u, scale)
        self.damping = torch.ones_like(self.value)

    def step(self, active: Tensor) -> Tensor:
        """Take a step in each search of some data where it climbs; return the largest gain promised to each, in nats.

        Curvature that is negative is turned round, so that saddle points repel; damping falls where a step climbs.

        Args:
            active: places of the data, shape (b,).
        """
        damping = self.damping[:, active]
        values, vectors = torch.linalg.eigh(self.curvature[:, active])
        along = (self.gradient[:, active][..., None, :] @ vectors)[..., 0, :]
        move = along / (values.abs() + damping[..., None] + 1e-12)
        other = self.u[:, active] + self.scale * (vectors @ move[..., None])[..., 0]
        value, gradient, curvature = _expand(self.space.at(active), other, self.scale)
        climbs = value >= self.value[:, active]
        for held, new in ((self.u, other), (self.value, value), (self.gradient, gradient), (self.curvature, curvature)):
            held[:, active] = torch.where(climbs.reshape(*climbs.shape, *[1] * (new.ndim - 2)), new, held[:, active])
        self.damping[:, active] = torch.where(climbs, damping * 0.2, (damping * 5).clamp(min=1e-3))
        return (along * move).sum(-1).amax(0) / 2


@torch.enable_grad()
def _expand(space: Unconstrained, u: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return log p(x, u), its gradient and minus its Hessian by u / scale, in float64; -inf, 0, I where that is NaN.

    Raises:
        ValueError: if torch has no second derivative of the model.
    """
    point = u.detach().to(space.start, copy=True).requires_grad_()
    value = space(point).joint
    try:
        (gradient,) = torch.autograd.grad(value.sum(), point, create_graph=True)
        rows = [_derivative(g.sum(), point) for g in gradient.unbind(-1)]
    except (RuntimeError, NotImplementedError) as error:
        raise ValueError(
            "Expected a model that torch can differentiate twice by its latents, for Laplace's curvature; got: "
            f'{error}. Score with method="iw" or "ais".'
        ) from error
    hessian = -torch.stack(rows, -1).double()
    hessian = scale[:, None] * (hessian + hessian.mT) / 2 * scale
    sound = value.isfinite() & gradient.isfinite().all(-1) & hessian.isfinite().flatten(-2).all(-1)
    return (
        value.detach().double().where(sound, -math.inf),
        (gradient.detach().double() * scale).where(sound[..., None], 0.0),
        hessian.where(sound[..., None, None], torch.eye(u.shape[-1], dtype=u.dtype, device=u.device)),
    )


def _derivative(value: Tensor, point: Tensor) -> Tensor:
    """Return the gradient of one number, 0 where it does not depend on the point."""
    if not value.requires_grad:
        return torch.zeros_like(point)
    return torch.autograd.grad(value, point, retain_graph=True, materialize_grads=True)[0]
