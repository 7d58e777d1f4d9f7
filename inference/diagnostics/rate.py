"""Rate and distortion of each datum's code, and the rate split in two: ELBO surgery."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyro_vae.core.checks import check_positive_int
from pyro_vae.inference.diagnostics.latent import kl_groups
from pyro_vae.inference.programs.call import Args, Data, Program, check_data
from pyro_vae.inference.programs.latents import Given, guide_at, latent_values, refuse_masked, refuse_point_mass
from pyro_vae.inference.programs.loop import (
    data_at_once,
    evaluation_on_device,
    particle_terms,
    split_data,
    split_data_with_bar,
    terms_by_batch,
    whole_if_tied,
)
from pyro_vae.inference.programs.plates import Plates
from pyro_vae.inference.programs.standard_errors import check_two, mean_and_variance, monte_carlo_error, standard_error
from pyro_vae.inference.programs.vectorize import find_plates
from pyro_vae.inference.programs.weights import WeightTerms, refuse_auxiliary, weight_terms


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
    ``kl_per_dimension`` is, D the mean over particles. A latent that is masked costs nothing.

    Args:
        model: Pyro program for p(x, z) with all sites in a data plate.
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
    with evaluation_on_device(model, guide, x, seed, device) as args:
        for _, chunks in terms_by_batch(model, guide, args, num_particles, chunk_size, "rate and distortion", progress):
            parts.append(mean_and_variance(torch.cat([_rate_and_distortion(terms) for terms in chunks]))[0])
    return RateDistortion(*torch.cat(parts).T)


def _rate_and_distortion(terms: WeightTerms) -> Tensor:
    """Return rate and distortion of each particle and datum, shape (K, B, 2)."""
    distortion = -terms.log_likelihood
    return torch.stack([kl_groups(terms)[0].sum(-1), distortion], -1)


@dataclass(frozen=True)
class ELBOSurgery:
    """The mean KL over N data and its two parts, in nats per datum: kl = mutual_information + marginal_kl.

    Attributes:
        mutual_information: I(n; z) between a datum's index and its code, at most log N.
        marginal_kl: KL(q(z) || p(z)) of the aggregated posterior q(z) = (1/N) sum_n q(z|x_n).
        mutual_information_error: Monte Carlo standard error of the first.
        marginal_kl_error: Monte Carlo standard error of the second.
        num_data: N.
    """

    mutual_information: float
    marginal_kl: float
    mutual_information_error: float
    marginal_kl_error: float
    num_data: int

    @property
    def kl(self) -> float:
        """(1/N) sum_n KL(q(z|x_n) || p(z))."""
        return self.mutual_information + self.marginal_kl

    @property
    def bound(self) -> float:
        """Log N, which the mutual information cannot exceed; where it comes near, N is too small to tell more."""
        return math.log(self.num_data)

    def __str__(self) -> str:
        """Return the result in one line."""
        return (
            f"KL {self.kl:.2f} = mutual information {self.mutual_information:.2f} +- "
            f"{self.mutual_information_error:.2f} (at most log N = {self.bound:.2f}) + marginal KL "
            f"{self.marginal_kl:.2f} +- {self.marginal_kl_error:.2f} nats"
        )


def elbo_surgery(
    model: Program,
    guide: Program,
    x: Data,
    *,
    num_particles: int = 2,
    chunk_size: int = 10_000,
    seed: int = 0,
    device: str | torch.device = "auto",
    progress: bool = True,
) -> ELBOSurgery:
    """Split the mean KL term into index-code mutual information and the KL of the aggregated posterior.

        (1/N) sum_n KL(q(z|x_n) || p(z)) = I(n; z) + KL(q(z) || p(z)),   q(z) = (1/N) sum_n q(z|x_n)
        I(n; z) = (1/N) sum_n E_q[log q(z|x_n) - log q(z)] <= log N

    q(z) is that of these N data, with all of them as components of the mixture, so that neither part is biased; K
    draws of each datum are scored under all N, which costs K N^2 densities of the guide. The standard errors are
    those of the draws, stratified by datum: the data are taken as given. Another set of data, or another N, has
    another decomposition; near log N the mutual information says more about N than about the guide.

    Args:
        model: Pyro program for p(x, z) with all sites in a data plate.
        guide: Pyro program for q(z | x), which can score a z that it did not draw.
        x: data, shape (N, *event), or a tuple of tensors.
        num_particles: K >= 2.
        chunk_size: largest number of (particle, datum) or (draw, component) pairs in memory at once.
        seed: seed of the draws; the global generator is left as it was.
        device: "auto" (a GPU where there is one), or a torch device.
        progress: show a progress bar, where there is a terminal to show it.

    Raises:
        ValueError: for K < 2, a guide with auxiliary sites or without an inverse, masked latents, or programs that
            ``log_weights`` refuses.

    Source: Hoffman and Johnson (2016), ELBO Surgery: yet another way to carve up the variational evidence lower bound.
    """
    check_data(model, x)
    check_two(num_particles, "num_particles")
    parts = []
    with evaluation_on_device(model, guide, x, seed, device) as args:
        size = whole_if_tied(model, guide, args, data_at_once(len(args[0]), num_particles, chunk_size))
        plates = find_plates(model, guide, tuple(arg[:size] for arg in args))
        for batch in split_data_with_bar(args, size, "surgery", progress):
            terms = list(particle_terms(model, guide, batch, num_particles, chunk_size, plates))
            parts.append(torch.cat([_information_and_marginal(guide, args, t, chunk_size, plates) for t in terms]))
    mean, variance = mean_and_variance(torch.cat(parts, 1))
    information, marginal = mean.mean(0).tolist()
    errors = monte_carlo_error(variance, num_particles).tolist()
    return ELBOSurgery(information, marginal, errors[0], errors[1], len(mean))


def _information_and_marginal(
    guide: Program, args: Args, terms: WeightTerms, chunk_size: int, plates: Plates
) -> Tensor:
    """Return log q(z|x_n) - log q(z) and log q(z) - log p(z) of each particle and datum, shape (K, B, 2)."""
    refuse_auxiliary(terms)
    refuse_point_mass(terms)
    refuse_masked(terms, "q(z), of which all data are components, is of data that have it")
    draws = {name: value.flatten(0, 1)[:, None] for name, value in latent_values(terms).items()}  # (K B, 1, ...)
    aggregated = _log_aggregated(guide, args, draws, chunk_size, plates).reshape(terms.log_q.shape)
    return torch.stack([terms.log_q - aggregated, aggregated - terms.log_prior], -1)


def _log_aggregated(guide: Program, args: Args, draws: dict[str, Tensor], chunk_size: int, plates: Plates) -> Tensor:
    """Return log (1/N) sum_m q(z | x_m) at draws of shape (M, 1, ...), shape (M,)."""
    num_data, num_draws = len(args[0]), len(next(iter(draws.values())))
    at_once = max(1, min(num_draws, math.isqrt(chunk_size))) if plates.together else 1
    size = data_at_once(num_data, at_once, chunk_size, together=True)
    totals = []
    for chosen in torch.arange(num_draws).split(at_once):
        some = {name: value[chosen.to(value.device)] for name, value in draws.items()}
        log_q = torch.cat([_log_q(guide, batch, some, plates) for batch in split_data(args, size)], 1)
        totals.append(log_q.logsumexp(1))
    return torch.cat(totals) - math.log(num_data)


def _log_q(guide: Program, batch: Args, draws: dict[str, Tensor], plates: Plates) -> Tensor:
    """Return log q(z | x) of every draw, shape (M, 1, ...), under every datum of a batch, shape (M, B)."""
    num_draws, num_data = len(next(iter(draws.values()))), len(batch[0])
    latents = {name: value.expand(num_draws, num_data, *value.shape[2:]) for name, value in draws.items()}
    at = Given(latents, plates if num_draws > 1 else plates.single)

    def tracer(_: Program, guide: Program, args: Args) -> tuple[Trace, Trace]:
        trace = guide_at(guide, args, at)
        return trace, trace  # the guide in the model's place, whose decoder is not wanted

    return weight_terms(guide, guide, batch, num_draws, plates=plates, tracer=tracer).log_q
