"""Importance weighting under a heavy-tailed approximation at the mode of each datum's posterior."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pyro_vae.core.checks import check_positive_int
from pyro_vae.inference.annealing.unconstrained import Unconstrained
from pyro_vae.inference.programs.call import Args, Program
from pyro_vae.inference.programs.vectorize import find_plate_depth
from pyro_vae.inference.scoring.base import Method, Programs, Weights

MOST_DIMENSIONS = 200
"""Latent numbers of a datum up to which its Hessian, one gradient each, is taken."""
NUM_PILOT = 16
"""Draws of the guide for each datum: the search for the mode starts at the best of them or at their mean."""
CONVERGED = 1e-4
"""Nats that a step still promises below which the search for a mode ends."""
FLOOR = 1e-6
"""Least eigenvalue of a negative Hessian, as a share of its largest: along flat directions the prior's share draws."""


@dataclass(frozen=True)
class Laplace(Method):
    """Importance weighting with a Student-t at the posterior's mode as proposal, whatever the trained guide.

        q(u) = (1 - alpha) t_nu(u; m, H^-1) + alpha p(u),   m = argmax_u log p(x, u),   H = -Hessian of log p(x, u) at m

    for each datum, in the coordinates u in which its latents are real numbers. The mode is searched by damped Newton
    steps from where the guide's draws are best; no draw of the search is scored, so that E[w] = p(x). The heavy tails
    and the share of the prior cover what a normal approximation lacks; a second mode that neither reaches is missed, as
    by any proposal near one mode, and annealed importance sampling from the prior finds it.

    Args:
        df: nu, degrees of freedom of the Student-t.
        defensive: alpha, the share of the draws that come from the prior.
        steps: Newton steps at most.

    Raises:
        ValueError: for a setting out of its range, latents that are discrete, improper or too many (200), or a model
            of which torch has no second derivative.

    Source: the prior's share: Hesterberg (1995), Weighted Average Importance Sampling and Defensive Mixture
    Distributions; the proposal: Kuk (1999), Laplace Importance Sampling for Generalized Linear Mixed Models.
    """

    title: ClassVar = "Laplace importance sampling"
    df: float = 5.0
    defensive: float = 0.05
    steps: int = 50

    def __post_init__(self) -> None:
        check_positive_int(self.steps, "steps")
        if not 0 < self.df < math.inf:
            raise ValueError(f"Expected 0 < df < inf, degrees of freedom of the Student-t; got {self.df!r}.")
        if not 0 <= self.defensive < 1:
            raise ValueError(f"Expected 0 <= defensive < 1, the prior's share of the draws; got {self.defensive!r}.")

    @property
    def particles_of_its_own(self) -> int:
        """Draws of the guide for each datum, among which the search starts."""
        return NUM_PILOT

    def check(self, model: Program, guide: Program, batch: Args) -> None:
        """Refuse latents that have no mode or no Hessian."""
        dim = Unconstrained(model, None, batch, 1).dim
        if dim > MOST_DIMENSIONS:
            raise ValueError(
                f"Expected at most {MOST_DIMENSIONS} latent numbers for each datum for Laplace; got {dim}. Score with "
                'method="iw" or "ais".'
            )

    def weights(
        self, programs: Programs, batch: Args, counts: list[int], advance: Callable[[int], object]
    ) -> Iterator[Weights]:
        """Yield log p(x, u) - log q(u) for u drawn from the proposal at the mode of each datum."""
        depth = find_plate_depth(programs.model, None, batch)
        mode = _Mode.search(programs, batch, self.steps, depth)
        for count in counts:
            space = Unconstrained(programs.model, None, batch, count, plate_depth=depth)
            yield Weights(self._weigh(space, mode))
            advance(count * len(batch[0]))

    def _weigh(self, space: Unconstrained, mode: _Mode) -> Tensor:
        """Return log weights of draws from the mixture, shape (K, B); -inf where a draw has no density."""
        from_prior = torch.rand(space.start.shape[:2], device=space.start.device) < self.defensive
        u = torch.where(from_prior[..., None], space.start, mode.draw(len(space.start), self.df).to(space.start))
        densities = space(u)
        prior, log_t = densities.prior.double(), mode.log_density(u.double(), self.df)
        log_q = math.log1p(-self.defensive) + log_t
        if self.defensive:
            log_q = torch.logaddexp(log_q, math.log(self.defensive) + prior)
        return (prior + densities.likelihood.double() - log_q).nan_to_num(-math.inf, math.inf, -math.inf)


@dataclass(frozen=True)
class _Mode:
    """The mode of each datum's posterior, and the curvature there: -Hessian = V diag(e) V^T.

    Attributes:
        loc: m, shape (B, D), float64.
        eigenvalues: e > 0, shape (B, D).
        eigenvectors: V, shape (B, D, D).
    """

    loc: Tensor
    eigenvalues: Tensor
    eigenvectors: Tensor

    @classmethod
    def search(cls, programs: Programs, batch: Args, steps: int, plate_depth: int) -> _Mode:
        """Climb log p(x, u) by damped Newton steps, all data at once, and take its curvature at the top."""
        space = Unconstrained(programs.model, None, batch, 1, plate_depth=plate_depth)
        climb = _Climb(space, _best_start(programs, batch))
        for _ in range(steps):
            if climb.step() < CONVERGED:
                break
        values, vectors = torch.linalg.eigh(climb.curvature)
        floor = FLOOR * values.amax(-1, keepdim=True).clamp(min=1e-30)
        return cls(climb.u, values.maximum(floor), vectors)

    def draw(self, num_particles: int, df: float) -> Tensor:
        """Draw from the multivariate Student-t, shape (K, B, D)."""
        noise = torch.randn(num_particles, *self.loc.shape, dtype=torch.float64, device=self.loc.device)
        gamma = torch.distributions.Gamma(self.loc.new_tensor(df / 2), self.loc.new_tensor(df / 2))
        stretched = noise / gamma.sample((num_particles, len(self.loc), 1)).sqrt() / self.eigenvalues.sqrt()
        return self.loc + torch.einsum("bij,kbj->kbi", self.eigenvectors, stretched)

    def log_density(self, u: Tensor, df: float) -> Tensor:
        """Return its log density at u, shape (K, B), for u of shape (K, B, D)."""
        rotated = torch.einsum("bij,kbi->kbj", self.eigenvectors, u - self.loc)
        distance, dim = (rotated.square() * self.eigenvalues).sum(-1), self.loc.shape[-1]
        constant = math.lgamma((df + dim) / 2) - math.lgamma(df / 2) - dim / 2 * math.log(df * math.pi)
        return constant + self.eigenvalues.log().sum(-1) / 2 - (df + dim) / 2 * (distance / df).log1p()


class _Climb:
    """Positions of all data on their way to the modes, with the value, gradient and curvature of log p(x, u) there."""

    def __init__(self, space: Unconstrained, start: Tensor) -> None:
        self.space, self.u = space, start.double()
        self.value, self.gradient, self.curvature = _expand(space, self.u)
        self.damping = torch.ones_like(self.value)

    def step(self) -> float:
        """Take a step for each datum where it climbs; return the largest gain that was promised, in nats.

        Curvature that is negative is turned round, so that saddle points repel; damping falls where a step climbs.
        """
        values, vectors = torch.linalg.eigh(self.curvature)
        along = (self.gradient[:, None] @ vectors)[:, 0]
        move = along / (values.abs() + self.damping[:, None] + 1e-12)
        promised = (along * move).sum(-1) / 2
        other = self.u + (vectors @ move[..., None])[..., 0]
        value, gradient, curvature = _expand(self.space, other)
        climbs = value >= self.value
        self.u = torch.where(climbs[:, None], other, self.u)
        self.value = torch.where(climbs, value, self.value)
        self.gradient = torch.where(climbs[:, None], gradient, self.gradient)
        self.curvature = torch.where(climbs[:, None, None], curvature, self.curvature)
        self.damping = torch.where(climbs, self.damping * 0.2, (self.damping * 5).clamp(min=1e-3))
        return promised.max().item()


@torch.enable_grad()
def _expand(space: Unconstrained, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return log p(x, u), its gradient and minus its Hessian, (B,), (B, D), (B, D, D), in float64; -inf, 0, I if NaN.

    Raises:
        ValueError: if torch has no second derivative of the model.
    """
    point = u.to(space.start).requires_grad_()
    value = space(point[None]).joint[0]
    try:
        (gradient,) = torch.autograd.grad(value.sum(), point, create_graph=True)
        rows = [_derivative(g.sum(), point) for g in gradient.unbind(-1)]
    except (RuntimeError, NotImplementedError) as error:
        raise ValueError(
            "Expected a model that torch can differentiate twice by its latents, for Laplace's curvature; got: "
            f'{error}. Score with method="iw" or "ais".'
        ) from error
    hessian = -torch.stack(rows, -1).double()
    hessian = (hessian + hessian.mT) / 2
    sound = value.isfinite() & gradient.isfinite().all(-1) & hessian.isfinite().flatten(1).all(-1)
    return (
        value.detach().double().where(sound, -math.inf),
        gradient.detach().double().where(sound[:, None], 0.0),
        hessian.where(sound[:, None, None], torch.eye(u.shape[-1], dtype=u.dtype, device=u.device)),
    )


def _derivative(value: Tensor, point: Tensor) -> Tensor:
    """Return the gradient of one number, 0 where it does not depend on the point."""
    if not value.requires_grad:
        return torch.zeros_like(point)
    return torch.autograd.grad(value, point, retain_graph=True, materialize_grads=True)[0]


def _best_start(programs: Programs, batch: Args) -> Tensor:
    """Return the best of the mean of some draws of the guide and all but one of them, by log p(x, u), shape (B, D)."""
    space = Unconstrained(programs.model, programs.guide, batch, NUM_PILOT)
    candidates = torch.cat([space.start.mean(0, keepdim=True), space.start[1:]])
    best = space(candidates).joint.nan_to_num(-math.inf, -math.inf, -math.inf).argmax(0)
    return candidates[best, torch.arange(len(best), device=best.device)]
