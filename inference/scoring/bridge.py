"""A short annealed path from a proposal that is near the posterior already, in coordinates in which it is round."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from pyro_vae.inference.annealing.hmc import Point
from pyro_vae.inference.annealing.path import Path, Tuning, terms_and_gradients
from pyro_vae.inference.annealing.tuning import TARGET_ACCEPTANCE
from pyro_vae.inference.annealing.unconstrained import Unconstrained
from pyro_vae.inference.scoring.laplace import draw
from pyro_vae.inference.scoring.student import StudentMixture

NUM_LEAPFROG = 2
ADAPTATION_RATE = 0.6
"""By how much the log step size moves for an acceptance that is off by 1; a few dozen chains measure it well."""


class Bridge(Path):
    """The path from a proposal, f_0 = q(u), to f_1 = p(x, u), for chains of HMC.

    Chains move in v, u = m + A v, with m and A of the heaviest component of each datum: a normal posterior is then the
    standard normal, whatever its scale and correlations, and one step size serves all its dimensions. The Jacobian is
    a constant of both ends, and cancels.

    Args:
        space: the programs as functions of u, at the data of the mixture.
        mixture: q, one for each datum.
        num_particles: chains K.
        num_temperatures: of the path to come; where all data are one datum, a long one is worth recording the target.

    Attributes:
        lost: chains that start where the map from the reals overflows, outside the support: their weight is 0.
    """

    def __init__(
        self, space: Unconstrained, mixture: StudentMixture, num_particles: int, num_temperatures: int = 0
    ) -> None:
        self.num_leapfrog, self.mixture = NUM_LEAPFROG, mixture
        self.num_calls = (
            0 if space.particles is None else NUM_LEAPFROG * num_temperatures
        )  # else recording does not pay
        self.space = space.with_data(space.args, num_particles)
        u, self.share = draw(space, mixture, [num_particles])
        self.loc, self.factor = mixture.heaviest
        inverse = torch.linalg.inv(self.factor)
        drawn = next(u)
        self.lost = self.space(drawn).prior.isnan()
        self.start = torch.einsum("bij,kbj->kbi", inverse, drawn.double() - self.loc).to(space.start)

    def to_u(self, v: Tensor) -> Tensor:
        """Return u = m + A v, float64."""
        return self.loc + torch.einsum("bij,kbj->kbi", self.factor, v.double())

    def coefficients(self, beta: float) -> tuple[float, float]:
        """Return (1 - beta, beta)."""
        return 1.0 - beta, beta

    def ratio(self, point: Point) -> Tensor:
        """Return log f_1 - log f_0, shape (K, B)."""
        return point.terms[1] - point.terms[0]

    @torch.enable_grad()
    def evaluate(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return log f_0 and log f_1 at v and their gradients, shapes (2, K, B) and (2, K, B, D)."""
        v = u.detach().requires_grad_()
        u = self.to_u(v)
        log = self.space(u.to(self.start))
        start = self.mixture.log_density(u, log.prior, self.share)
        return terms_and_gradients((start.to(log.joint), log.joint), v)


def even_schedule(num_temperatures: int) -> tuple[float, ...]:
    """Return T + 1 inverse temperatures from 0 to 1 at equal distances.

    From a start near the posterior log f_1 - log f_0 varies about as much all along the path: with 32 temperatures the
    variance of w was 0.8 times that of the sigmoid ones on which a path from the prior relies (digits of MNIST).
    """
    return tuple(t / num_temperatures for t in range(num_temperatures + 1))


@dataclass(frozen=True)
class PilotRun:
    """Chains whose step sizes follow their acceptance: their weights are for choosing, and are thrown away.

    Attributes:
        u: where they end, shape (K, B, D), float64.
        log_w: their log weights, shape (K, B).
        log_prior: log p(u) there, shape (K, B).
        tuning: the step sizes, for chains to come.
    """

    u: Tensor
    log_w: Tensor
    log_prior: Tensor
    tuning: Tuning


def pilot_run(path: Bridge, num_temperatures: int) -> PilotRun:
    """Anneal chains, and adapt the step size of each datum to their acceptance after each transition."""
    betas = even_schedule(num_temperatures)
    point = Point.at(path.start, path.target)
    scale = torch.ones_like(point.position[0, 0])
    log_step = torch.full_like(point.terms[0, 0], -0.25 * math.log(len(scale)))
    log_w, steps = torch.zeros_like(point.terms[0], dtype=torch.float64), []
    for before, after in pairwise(betas):
        log_w = log_w + (after - before) * path.ratio(point)
        point, acceptance = path.move(point, after, log_step.exp(), scale)
        log_step = log_step + ADAPTATION_RATE * (acceptance.mean(0) - TARGET_ACCEPTANCE)
        steps.append(log_step.exp())
    tuning = Tuning(betas[1:], torch.stack(steps), scale.expand(num_temperatures, len(scale)))
    u = path.to_u(point.position)
    log_prior = path.space(u.to(path.start)).prior
    return PilotRun(u, log_w.where(~path.lost, -math.inf), log_prior.where(~path.lost, -math.inf), tuning)
