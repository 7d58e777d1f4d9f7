"""Draws of what is missing from a datum, given what is there."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_vae.core.checks import check_positive_int
from pyro_vae.inference.programs.call import Program, check_data, fork_rng, place, training_mode
from pyro_vae.inference.scoring.posterior import posterior_draws


@torch.no_grad()
def impute(
    model: Program,
    guide: Program,
    x: Tensor,
    num_draws: int = 100,
    *,
    num_particles: int = 1000,
    seed: int = 0,
    device: str | torch.device = "auto",
    progress: bool = True,
) -> Tensor:
    """Draw the missing entries of x from p(x_mis | x_obs), several times: multiple imputation.

        z_k ~ q(z | x_obs),   resampled with weights w_k = p(x_obs, z_k) / q(z_k | x_obs),   x_mis ~ p(x_mis | z)

    As K grows the draws follow the model's conditional, whatever the guide. Their spread is that of prediction
    for one entry; means over draws are point imputations. The model must leave NaN out of its likelihood and
    accept it in a ``check_data`` of its own, as ``VAE(..., missing=True)`` does, entries missing at random.

    The log score of held-out entries needs no draws: log p(x_mis | x_obs) = log p(x_mis, x_obs) - log p(x_obs), the
    difference of two ``evidence`` calls.

    Args:
        model: Pyro program for p(x, z) with one observed site, and an outermost data plate.
        guide: Pyro program for q(z | x).
        x: data, shape (N, *event), NaN where missing.
        num_draws: draws S.
        num_particles: K.
        seed: seed of the draws; the global generator is left as it was.
        device: "auto" (a GPU where there is one), or a torch device.
        progress: show a progress bar, where there is a terminal to show it.

    Returns:
        completed data, shape (S, N, *event); observed entries are as they were in each draw.

    Raises:
        ValueError: if the model has several observed sites, or another shape of data than x.

    Source: Mattei and Frellsen (2019), MIWAE: Deep Generative Modelling and Imputation of Incomplete Data Sets,
    section 3.
    """
    check_positive_int(num_draws, "num_draws")
    check_data(model, x, guide=guide)
    args, device = place(model, guide, (x,), device)
    with training_mode(model, guide, False), fork_rng(device, seed):
        drawn = posterior_draws(model, guide, args, num_draws, num_particles, progress=progress).predictive
    if len(drawn) != 1:
        raise ValueError(f"Expected a model with one observed site to impute; it has {list(drawn)}.")
    (draws,) = drawn.values()
    if draws[0].numel() != x.numel():
        raise ValueError(f"Expected a model that observes x, {tuple(x.shape)}; its site has {tuple(draws[0].shape)}.")
    return torch.where(args[0].isnan(), draws.reshape(num_draws, *x.shape), args[0]).to(x.device)
