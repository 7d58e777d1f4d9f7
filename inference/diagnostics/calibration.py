"""Calibration of the guide on data that the model itself drew: ranks, and coverage of its regions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pyro_vae.core.checks import check_positive_int
from pyro_vae.inference.diagnostics.uniformity import (
    RankCounter,
    Tested,
    Uniformity,
    check_level,
    random_ranks,
    uniformity,
)
from pyro_vae.inference.programs.call import Args, Data, Program
from pyro_vae.inference.programs.latents import latent_values, refuse_masked, terms_at, unit_labels
from pyro_vae.inference.programs.loop import data_at_once, evaluation_on_device, particle_terms, split_data_with_bar
from pyro_vae.inference.programs.plates import Plates
from pyro_vae.inference.programs.simulate import Simulation, example_data, simulate, with_missing
from pyro_vae.inference.programs.vectorize import find_plates
from pyro_vae.inference.programs.weights import WeightTerms, refuse_auxiliary

LOG_LIKELIHOOD = "log p(x|z)"


@dataclass(frozen=True)
class SBC(Tested):
    """Ranks of the true latents among the guide's draws; accepted with probability >= 1 - alpha if it is the posterior.

    Attributes:
        ranks: shape (N, D + 1), each in {0, ..., L}; the last column is that of log p(x|z).
        num_draws: L.
        test: the test that each column is uniform.
    """

    ranks: Tensor
    num_draws: int
    test: Uniformity
    subject: ClassVar = "calibration of q(z|x)"


def sbc(
    model: Program,
    guide: Program,
    num_data: int = 1000,
    *,
    num_draws: int = 99,
    x: Data | None = None,
    alpha: float = 0.05,
    chunk_size: int = 10_000,
    seed: int = 0,
    device: str | torch.device = "auto",
    progress: bool = True,
) -> SBC:
    """Test a guide on data from the model, for which draws of the true posterior are known.

        (z*, x) ~ p(z) p(x|z),   z_l ~ q(z|x), l = 1, ..., L,   r_j = #{l: z_lj < z*_j}

    If q(z|x) is the posterior, z* and the z_l are exchangeable and every r_j is uniform on {0, ..., L}; ties of
    discrete latents are broken at random. A guide too narrow has ranks at both ends, one too wide in the middle, one
    that is shifted on one side. One more column ranks log p(x|z*) among the log p(x|z_l): dimension by dimension
    calibration holds on average over x, and a guide that ignores x, q(z|x) = p(z), has it too.

    A verdict on the guide under the model's own data; it says nothing of whether the model fits real data.

    Args:
        model: Pyro program for p(x, z), which observes its data as they were handed in, ``obs=x``.
        guide: Pyro program for q(z | x).
        num_data: N, the number of simulated data.
        num_draws: L; L + 1 with many divisors suits histograms.
        x: example data, shape (M, *event), or a tuple of tensors, for a model without ``event_shape``; covariates
            are taken from it in turn.
        alpha: probability of rejecting an exact guide, at most; see ``uniformity``.
        chunk_size: largest number of (draw, datum) pairs in memory at once.
        seed: seed of the draws; the global generator is left as it was.
        device: "auto" (a GPU where there is one), or a torch device.
        progress: show a progress bar, where there is a terminal to show it.

    Raises:
        ValueError: for programs that ``simulate`` or ``log_weights`` refuses, masked latents, or draws that are NaN.

    Source: Talts, Betancourt, Simpson, Vehtari and Gelman (2018), Validating Bayesian Inference Algorithms with
    Simulation-Based Calibration; log p(x|z) as a test quantity: Modrák et al. (2023), Simulation-Based Calibration
    Checking for Bayesian Computation.
    """
    check_positive_int(num_draws, "num_draws")
    check_level(alpha, "alpha")
    ranks, numbers = [], []
    with evaluation_on_device(model, guide, example_data(model, num_data, x), seed, device) as args:
        for drawn, plates in simulations(model, guide, args, num_draws, chunk_size, "calibration", progress):
            truth = terms_at(model, guide, drawn.args, drawn.latents, plates, score_guide=False)
            refuse_masked(truth, "it has no posterior to be ranked in where it is masked")
            values = {name: drawn.latents[name][None] for name in truth.prior}
            star, labels = _quantities(values, truth)
            counter = RankCounter(star[0])
            for terms in particle_terms(model, guide, drawn.args, num_draws, chunk_size, plates):
                counter.add(_quantities(latent_values(terms), terms)[0])
            rank, u = random_ranks(counter.less, counter.equal, num_draws)
            ranks.append(rank.cpu())
            numbers.append(u.cpu())
    return SBC(torch.cat(ranks), num_draws, uniformity(torch.cat(numbers), labels, alpha=alpha))


def simulations(
    model: Program, guide: Program, args: Args, num_draws: int, chunk_size: int, desc: str, progress: bool
) -> Iterator[tuple[Simulation, Plates]]:
    """Yield joint draws of the model in place of the data, batch by batch, and how particles can run on them."""
    plates = None
    for batch in split_data_with_bar(args, data_at_once(len(args[0]), num_draws, chunk_size), desc, progress):
        drawn = with_missing(simulate(model, batch), batch)
        if plates is None:
            plates = find_plates(model, guide, drawn.args)
        yield drawn, plates


def _quantities(values: dict[str, Tensor], terms: WeightTerms) -> tuple[Tensor, list[str]]:
    """Return what is ranked, shape (K, B, D + 1), and its names."""
    columns = [value.reshape(*value.shape[:2], -1).double() for value in values.values()]
    labels = [label for name, value in values.items() for label in unit_labels(name, value.shape[2:])]
    log_likelihood = rounded(terms.log_likelihood)
    return torch.cat([*columns, log_likelihood[..., None]], -1), [*labels, LOG_LIKELIHOOD]


def rounded(log_density: Tensor) -> Tensor:
    """Round to 0.01 nats: equal latents then have equal densities in any order of summation.

    Ties are broken at random, so that the rank of what is rounded is as uniform as that of what is not.
    """
    return log_density.double().round(decimals=2)


@dataclass(frozen=True)
class Coverage(Tested):
    """Coverage of the guide's regions of highest density; accepted with probability >= 1 - alpha if exact.

    Attributes:
        level: the smallest credible level whose region holds the truth, of each simulated datum, shape (N,).
        test: the test that it is uniform.
    """

    level: Tensor
    test: Uniformity
    subject: ClassVar = "coverage of q(z|x)"

    def at(self, nominal: Tensor | float) -> Tensor:
        """Return the share of data whose truth is in the region of credible level ``nominal``, same shape."""
        nominal = torch.as_tensor(nominal, dtype=self.level.dtype)
        return (self.level <= nominal[..., None]).double().mean(-1)

    @property
    def verdict(self) -> str:
        """One of calibrated, conservative (regions too large), overconfident (too small) and miscalibrated."""
        if self.accepted:
            return "calibrated"
        fault = next(iter(self.test.faults.values()))
        return {"too high": "conservative", "too low": "overconfident"}.get(fault, "miscalibrated")

    def __str__(self) -> str:
        """Return the result in one line."""
        shares = ", ".join(f"{100 * self.at(a).item():.0f}% at {a:.0%}" for a in (0.5, 0.9))
        return f"{self.subject}: {self.verdict} at level {self.test.alpha:g}, {shares}, N={len(self.level)}"


def expected_coverage(
    model: Program,
    guide: Program,
    num_data: int = 1000,
    *,
    num_draws: int = 99,
    x: Data | None = None,
    alpha: float = 0.05,
    chunk_size: int = 10_000,
    seed: int = 0,
    device: str | torch.device = "auto",
    progress: bool = True,
) -> Coverage:
    """Measure how often a region of highest density of q(z|x) holds the z that x was drawn with.

        (z*, x) ~ p(z) p(x|z),   a = P_q(q(z|x) > q(z*|x)),   coverage at level c = P(a <= c)

    The region of credible level c holds z* if a <= c, and a is the rank of log q(z*|x) among L draws. If q is the
    posterior, coverage at c is c. A guide too wide covers more, above the diagonal, which is called conservative; one
    too narrow or shifted covers less. All dimensions are judged at once. A small shift changes coverage only to
    second order, and ``sbc`` sees it sooner. Coverage is an average over x: a guide that ignores x, q(z|x) = p(z),
    has it too, which the column of log p(x|z) in ``sbc`` finds out. Masked latents are left out of log q.

    Args:
        model: Pyro program for p(x, z), which observes its data as they were handed in, ``obs=x``.
        guide: Pyro program for q(z | x), which can score a z that it did not draw.
        num_data: N, the number of simulated data.
        num_draws: L.
        x: example data, shape (M, *event), or a tuple of tensors, for a model without ``event_shape``; covariates
            are taken from it in turn.
        alpha: probability of rejecting an exact guide, at most; see ``uniformity``.
        chunk_size: largest number of (draw, datum) pairs in memory at once.
        seed: seed of the draws; the global generator is left as it was.
        device: "auto" (a GPU where there is one), or a torch device.
        progress: show a progress bar, where there is a terminal to show it.

    Raises:
        ValueError: for programs that ``simulate`` or ``log_weights`` refuses, or a guide with auxiliary sites or
            without an inverse.

    Source: Hermans, Delaunoy, Rozet, Wehenkel, Begy and Louppe (2022), A Crisis in Simulation-Based Inference? Beware,
    Your Posterior Approximations Can Be Unfaithful.
    """
    check_positive_int(num_draws, "num_draws")
    check_level(alpha, "alpha")
    levels = []
    with evaluation_on_device(model, guide, example_data(model, num_data, x), seed, device) as args:
        for drawn, plates in simulations(model, guide, args, num_draws, chunk_size, "coverage", progress):
            truth = terms_at(model, guide, drawn.args, drawn.latents, plates, score_guide=True)
            refuse_auxiliary(truth)
            counter = RankCounter(-rounded(truth.log_q[0]))
            for terms in particle_terms(model, guide, drawn.args, num_draws, chunk_size, plates):
                counter.add(-rounded(terms.log_q))
            levels.append(random_ranks(counter.less, counter.equal, num_draws)[1].cpu())
    level = torch.cat(levels)
    return Coverage(level, uniformity(level[:, None], ["level"], alpha=alpha))
