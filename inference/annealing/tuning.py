"""How far chains move at each temperature of a path, found in a pilot run."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyro_vae.inference.annealing.hmc import Point
from pyro_vae.inference.annealing.path import Annealing, AnnealingPath, Tuning, schedule
from pyro_vae.inference.programs.call import Args, Program
from pyro_vae.inference.programs.plates import Plates

TARGET_ACCEPTANCE = 0.65
"""Optimal for HMC in many dimensions (Beskos et al., 2013, Optimal tuning of the hybrid Monte Carlo algorithm)."""
ADAPTATION_RATE = 0.3
MAX_STAGES = 100
TRANSITIONS = 3
WARM_UP = 20
SMOOTHING = 20
"""Degrees of freedom of the running variance, against those of one transition's chains."""


@torch.no_grad()
def tune(
    model: Program,
    guide: Program | None,
    args: Args,
    *,
    settings: Annealing | None = None,
    plates: Plates | None = None,
) -> Tuning:
    """Find step sizes and scales in a pilot run along the path, with chains of its own.

    It has half as many temperatures as the run to come, 100 at most, and three transitions at each of them. After
    each transition the log step size of a datum moves by 0.3 (a - 0.65), a the mean acceptance of its chains, and
    the variance s_d^2 of a dimension towards that between the chains of a datum, pooled over data.

    Args:
        model: Pyro program for p(x, z).
        guide: Pyro program for q(z | x); may be None where the start is the prior.
        args: their arguments, B data, tensors of shape (B, *event).
        settings: numbers of temperatures, leapfrog steps and chains of the pilot run, and the start.
        plates: how the programs' plates lie, and how particles run; found out if None, see ``find_plates``.
    """
    settings = settings or Annealing()
    path = AnnealingPath(model, guide, args, settings.num_pilot, settings, plates)
    betas = schedule(min((settings.num_temperatures + 1) // 2 + 1, MAX_STAGES + 1))[1:-1]
    betas = betas if settings.num_temperatures > 1 else ()
    state = _Adaptation(path)
    stages = [state.stay(beta, TRANSITIONS if i else WARM_UP) for i, beta in enumerate(betas)]
    step_sizes, scales = zip(*stages, strict=True) if stages else ((state.step_size,), (state.scale,))
    return Tuning(betas, torch.stack(step_sizes), torch.stack(scales))


class _Adaptation:
    """Chains of the pilot run, with the step sizes and the scale that follow them."""

    def __init__(self, path: AnnealingPath) -> None:
        self.path = path
        self.point = Point.at(path.start, path.target)
        self.variance = self._variance()
        self.log_step = self.variance.new_full(path.start.shape[1:2], -0.25 * math.log(path.start.shape[-1]))
        count, num_data, _ = path.start.shape
        freedom = num_data * (count - 1)
        self.weight = freedom / (freedom + SMOOTHING)

    @property
    def step_size(self) -> Tensor:
        return self.log_step.exp()

    @property
    def scale(self) -> Tensor:
        return self.variance.sqrt()

    def stay(self, beta: float, num_transitions: int) -> tuple[Tensor, Tensor]:
        """Move at one temperature, adapting; return the adapted step sizes (B,) and scale (D,)."""
        for _ in range(num_transitions):
            self.point, acceptance = self.path.move(self.point, beta, self.step_size, self.scale)
            self.log_step = self.log_step + ADAPTATION_RATE * (acceptance.mean(0) - TARGET_ACCEPTANCE)
            self.variance = self.variance.lerp(self._variance(), self.weight)
        return self.step_size, self.scale

    def _variance(self) -> Tensor:
        """Return the variance of u between the chains of a datum, (D,), bounded away from 0.

        Pooled over the data whose density depends on the dimension: where a latent is masked, as at the end of a
        shorter sequence, nothing holds chains back, and their spread would be no scale for other data.
        """
        held = (self.point.gradients != 0).any(0).any(0)
        pooled = (self.point.position.var(0) * held).sum(0) / held.sum(0).clamp(min=1)
        return pooled.where(held.any(0), 1.0).clamp(min=1e-12)
