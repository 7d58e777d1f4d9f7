"""How much of a gradient estimate is signal."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pyro.infer
import torch
from torch import Tensor

from pyro_vae.inference.programs.call import Data, Program, as_args, check_data, fork_rng, short_errors
from pyro_vae.inference.programs.parameters import used_parameters
from pyro_vae.inference.programs.standard_errors import check_two
from pyro_vae.inference.programs.trial import store_kept


@dataclass(frozen=True)
class GradientSNR:
    """Signal-to-noise ratio of a gradient estimate, |mean| / standard deviation, the mean over parameters.

    Attributes:
        model: that of the parameters that log p(x, z) depends on, NaN if there are none.
        guide: that of the parameters that q(z | x) depends on, NaN if there are none.
        num_particles: K of the objective.
        num_repeats: number of gradients drawn.
    """

    model: float
    guide: float
    num_particles: int
    num_repeats: int


@short_errors()
def gradient_snr(
    model: Program,
    guide: Program,
    x: Data,
    objective: pyro.infer.ELBO,
    *,
    num_repeats: int = 200,
    seed: int = 0,
) -> GradientSNR:
    """Measure the signal-to-noise ratio of an objective's gradient, for model and guide apart.

    A parameter of both programs counts in both; see ``used_parameters``.

    Args:
        model: Pyro program for p(x, z).
        guide: Pyro program for q(z | x).
        x: one minibatch, shape (B, *event), or a tuple of tensors.
        objective: any with ``differentiable_loss``.
        num_repeats: gradients drawn, at least 2; the ratio is known to about one part in sqrt(2 num_repeats).
        seed: seed of the draws; the global generator is left as it was.

    Returns:
        the two ratios. Parameters whose gradient is the same in every repeat are left out.

    Raises:
        ValueError: for data that the model cannot have produced, or fewer than 2 repeats.

    Source: Rainforth et al. (2018), Tighter Variational Bounds are Not Necessarily Better, equation 6.
    """
    check_two(num_repeats, "num_repeats")
    check_data(model, x)
    args = as_args(x, program=model)
    with fork_rng(args[0].device, seed), store_kept():
        groups = used_parameters(model, guide, args)
        every = list({id(p): p for group in groups for p in group}.values())
        if not every:
            raise ValueError("Found no parameters. Announce them with pyro.param or pyro.module.")
        draws = [_gradient(objective.differentiable_loss(model, guide, *args), every) for _ in range(num_repeats)]
    columns = torch.stack(draws).split([p.numel() for p in every], dim=1)
    of = dict(zip(map(id, every), columns, strict=True))
    ratios = [_ratio(torch.cat([of[id(p)] for p in group], 1)) if group else math.nan for group in groups]
    return GradientSNR(ratios[0], ratios[1], objective.num_particles, num_repeats)


def _gradient(loss: Tensor, parameters: list[Tensor]) -> Tensor:
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    pairs = zip(gradients, parameters, strict=True)
    return torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in pairs])


def _ratio(draws: Tensor) -> float:
    """Return the mean over parameters of |mean| / sd of gradients of shape (repeats, parameters)."""
    noisy = draws[:, draws.std(0) > 0]
    return (noisy.mean(0).abs() / noisy.std(0)).mean().item()
