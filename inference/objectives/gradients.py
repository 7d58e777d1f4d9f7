"""Gradient estimators of a bound, orthogonal to the bound: each a surrogate with the bound's value.

With f the bound as a function of log w_1, ..., log w_K of one datum, f_k its derivative by log w_k, and f_kk its
second:

    pathwise   f_k times the total derivative of log w_k through z = z(phi, eps)
    stl        the same without the guide's score, whose mean is 0 where f_k is constant (Roeder et al., 2017)
    dreg       the guide's score times f_k reparameterised once more: its mean is that of f_kk d log w_k / dz, so
               that z(phi) receives (f_k - f_kk) d log w_k / dz (Tucker et al., 2019; Bauer and Mnih, 2021)
    score      (f - f without k) times the guide's score, for any guide (Kool et al., 2019, for the ELBO)
    vimco      the same, with log w_k replaced by the mean of the others instead of left out (Mnih and Rezende, 2016)

In the last two the derivative of f by the parameters at z held fixed is added. A weight beta of the KL term enters
dreg as f_k - beta f_kk.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pyro_vae.inference.objectives.rescoring import Rescorer, detached, unaltered
from pyro_vae.inference.programs.call import Args, Program
from pyro_vae.inference.programs.plates import Plates
from pyro_vae.inference.programs.sites import Site, distribution_name, event_dim
from pyro_vae.inference.programs.weights import WeightTerms

if TYPE_CHECKING:
    from pyro_vae.inference.objectives.base import Objective


def pathwise(objective: Objective, model: Program, guide: Program, args: Args) -> Tensor:
    """Return the bound, differentiable through the sampler, shape (B,)."""
    return objective.bound(objective.log_weights(model, guide, args, inspect=partial(check_reparameterised, objective)))


def sticking_the_landing(objective: Objective, model: Program, guide: Program, args: Args) -> Tensor:
    """Return the bound with the guide's score left out of its gradient, shape (B,)."""

    def tracer(chunk: int) -> Rescorer:
        return Rescorer(unaltered, freeze=True)

    return objective.bound(objective.log_weights(model, guide, args, tracer, partial(check_reparameterised, objective)))


def doubly_reparameterised(objective: Objective, model: Program, guide: Program, args: Args) -> Tensor:
    """Return the bound with the doubly reparameterised gradient for the guide, shape (B,)."""
    counts = objective.chunks(len(args[0]))
    factors: list[list[Tensor]] = [[] for _ in counts]
    rescorers: dict[int, Rescorer] = {}
    kl_weights: list[float | Tensor] = []
    plates: list[Plates] = []

    def tracer(chunk: int) -> Rescorer:
        return rescorers.setdefault(chunk, Rescorer(_with_factor(factors[chunk], plates, chunk), freeze=True))

    def inspect(terms: WeightTerms) -> None:
        check_reparameterised(objective, terms)
        kl_weights.append(terms.kl_weight)
        plates.append(terms.plates)

    log_w = objective.log_weights(model, guide, args, tracer, inspect)
    first, second = objective.derivatives(log_w.detach())
    # One backward pass: log w_k has the weight f_k for the model, and its gradient by z is rescaled on the way.
    ratios = torch.nan_to_num((first - kl_weights[0] * second) / first).split(counts)
    for chunk, ratio in enumerate(ratios):
        factors[chunk].extend([ratio] if plates[chunk].together else ratio.split(1))
    return with_gradient_of(objective.bound(log_w.detach()), weighted_sum(first, log_w))


def score_function(objective: Objective, model: Program, guide: Program, args: Args) -> Tensor:
    """Return the bound with a score-function gradient whose baseline leaves particle k out, shape (B,)."""
    return _by_score(objective, model, guide, args, _bound_without_each)


def vimco(objective: Objective, model: Program, guide: Program, args: Args) -> Tensor:
    """Return the bound with a score-function gradient whose baseline replaces particle k, shape (B,)."""
    return _by_score(objective, model, guide, args, _bound_with_each_replaced)


ESTIMATORS: dict[str, Callable[[Objective, Program, Program, Args], Tensor]] = {
    "pathwise": pathwise,
    "stl": sticking_the_landing,
    "dreg": doubly_reparameterised,
    "score": score_function,
    "vimco": vimco,
}


def check_reparameterised(objective: Objective, terms: WeightTerms) -> None:
    """Refuse a pathwise gradient through a site that has none, naming what the objective offers instead."""
    for name, site in terms.guide_sites.items():
        if not site["is_observed"] and not site["fn"].has_rsample:
            offered = [f'gradient="{g}"' for g in objective.gradients if g in ("score", "vimco", "enumerate")]
            raise ValueError(
                f"Guide site {name!r} ({distribution_name(site['fn'])}) cannot be reparameterised, so it has no "
                f"{objective.gradient} gradient. Use {' or '.join(offered) or 'another objective'}, or "
                "pyro.infer.TraceEnum_ELBO (exact enumeration)."
            )


def _with_factor(factors: list[Tensor], plates: list[Plates], chunk: int) -> Callable[[Site, int], Tensor]:
    """Return a map z -> z whose gradient is multiplied by factors that are known only after the forward pass."""

    def alter(site: Site, run: int) -> Tensor:
        value: Tensor = site["value"]
        if not value.requires_grad:
            return value
        copy, dims = value.view_as(value), event_dim(site)

        def rescale(gradient: Tensor) -> Tensor:
            return gradient * plates[chunk].weighing(factors[run], dims)

        copy.register_hook(rescale)
        return copy

    return alter


def _by_score(
    objective: Objective,
    model: Program,
    guide: Program,
    args: Args,
    baseline: Callable[[Objective, Tensor], Tensor],
) -> Tensor:
    log_w, _, log_q = at_fixed_draws(objective, model, guide, args)
    value = objective.bound(log_w)
    signal = (value.detach() - baseline(objective, log_w.detach())).nan_to_num(0.0, 0.0, 0.0)
    return with_gradient_of(value.detach(), (signal * log_q).sum(0) + value)


def at_fixed_draws(objective: Objective, model: Program, guide: Program, args: Args) -> tuple[Tensor, Tensor, Tensor]:
    """Return log w, log p(x, z) and log q(z | x) at draws that are constants, each of shape (K, B)."""

    def tracer(chunk: int) -> Rescorer:
        return Rescorer(detached, freeze=False)

    def densities(terms: WeightTerms) -> Tensor:
        return torch.stack(torch.broadcast_tensors(terms.log_w, terms.log_p, terms.log_q), 1)

    log_w, log_p, log_q = objective.log_weights(model, guide, args, tracer, quantity=densities).unbind(1)
    return log_w, log_p, log_q


def _bound_without_each(objective: Objective, log_w: Tensor) -> Tensor:
    """Return the bound of the other particles for each, shape (K, B); 0 for K = 1, plain REINFORCE."""
    count = len(log_w)
    if count == 1:
        return torch.zeros_like(log_w)
    return torch.stack([objective.bound(torch.cat([log_w[:k], log_w[k + 1 :]])) for k in range(count)])


def _bound_with_each_replaced(objective: Objective, log_w: Tensor) -> Tensor:
    """Return the bound with each particle's log weight replaced by the mean of the others', shape (K, B)."""
    count = len(log_w)
    keep = torch.eye(count, dtype=torch.bool, device=log_w.device)[..., None]

    def bounds(keep: Tensor) -> Tensor:
        others = torch.where(keep, 0.0, log_w[:, None]).sum(0) / (count - 1)  # not a difference: inf - inf is none
        replaced = torch.where(keep, others, log_w[:, None])  # (K, replaced k, B)
        return objective.bound(replaced.flatten(1)).reshape(others.shape)

    return torch.cat([bounds(part) for part in keep.split(objective.chunks(log_w.shape[1]), 1)])


def weighted_sum(weights: Tensor, log_w: Tensor) -> Tensor:
    """Return sum_k weights_k log w_k, shape (B,), where a particle of weight 0 counts for nothing, log 0 or not."""
    return (weights * log_w.masked_fill(weights == 0, 0.0)).sum(0)


def with_gradient_of(value: Tensor, surrogate: Tensor) -> Tensor:
    """Return a tensor with the value of the first and the gradient of the second, of one shape."""
    return value + (surrogate - surrogate.detach())
