"""Rate and distortion: what the code of each datum costs, and what is lost."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_vae.core.checks import check_positive_int
from pyro_vae.inference.diagnostics.kl import kl_groups, mean_and_variance
from pyro_vae.inference.programs.call import Data, Program, check_data
from pyro_vae.inference.programs.loop import batches, evaluating, particle_terms, plan_for, standard_error
from pyro_vae.inference.programs.weights import WeightTerms


@dataclass(frozen=True)
class RateDistortion:
    """The two terms of the ELBO of each datum, in nats; elbo = -(rate + distortion).

    Attributes:
        rate: R_n = KL(q(z|x_n) || p(z)), shape (N,).
        distortion: D_n = -E_q[log p(x_n|z)], shape (N,).
    """

    rate: Tensor
    distortion: Tensor

    @property
    def elbo(self) -> Tensor:
        """-(R_n + D_n), shape (N,)."""
        return -(self.rate + self.distortion)

    @property
    def mean(self) -> tuple[float, float]:
        """Mean rate and mean distortion over data, nats per datum."""
        return self.rate.mean().item(), self.distortion.mean().item()

    @property
    def stderr(self) -> tuple[float, float]:
        """Their standard errors, over data and Monte Carlo; NaN for N = 1."""
        return standard_error(self.rate).item(), standard_error(self.distortion).item()

    def __str__(self) -> str:
        """Return the result in one line."""
        pairs = zip(("rate", "distortion"), self.mean, self.stderr, strict=True)
        return ", ".join(f"{name} = {mean:.2f} +- {error:.2f}" for name, mean, error in pairs) + " nats"


def rate_distortion(
    model: Program,
    guide: Program,
    x: Data,
    *,
    num_particles: int = 16,
    chunk_size: int = 10_000,
    seed: int = 0,
    device: str | torch.device = "auto",
    progress: bool = True,
) -> RateDistortion:
    """Split the ELBO of each datum into what its code costs and what is lost.

        R_n = KL(q(z|x_n) || p(z)),   D_n = -E_q[log p(x_n|z)],   ELBO_n = -(R_n + D_n)

    The mean rate is an upper bound on the mutual information of x and z under the guide. R is in closed form where
    ``kl_per_dimension`` is, D the mean over particles.

    Args:
        model: Pyro program for p(x, z) with an outermost data plate.
        guide: Pyro program for q(z | x).
        x: data, shape (N, *event), or a tuple of tensors.
        num_particles: K.
        chunk_size: largest number of (particle, datum) pairs in memory at once.
        seed: seed of the draws; the global generator is left as it was.
        device: "auto" (a GPU where there is one), or a torch device.
        progress: show a progress bar, where there is a terminal to show it.

    Raises:
        ValueError: for programs without latents, or programs that ``log_weights`` refuses.

    Source: Alemi, Poole, Fischer, Dillon, Saurous and Murphy (2018), Fixing a Broken ELBO, section 2.
    """
    check_data(model, x)
    check_positive_int(num_particles, "num_particles")
    parts = []
    with evaluating(model, guide, x, seed, device) as args:
        plan = plan_for(model, guide, args)
        for batch in batches(args, num_particles, chunk_size, "rate and distortion", progress):
            chunks = [_both(t) for t in particle_terms(model, guide, batch, num_particles, chunk_size, plan)]
            parts.append(mean_and_variance(torch.cat(chunks))[0])
    return RateDistortion(*torch.cat(parts).T)


def _both(terms: WeightTerms) -> Tensor:
    """Return rate and distortion of each particle and datum, shape (K, B, 2)."""
    distortion = -torch.stack(list(terms.likelihood.values())).sum(0)
    return torch.stack([kl_groups(terms)[0].sum(-1), distortion], -1)
