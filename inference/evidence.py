"""Estimates of log p(x) with their uncertainty, by importance weighting in bounded memory."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from pyro_vae._checks import check_positive_int
from pyro_vae._files import atomic_path
from pyro_vae.inference.programs import Data, Program, as_args, check_data, fork_rng, place, training_mode
from pyro_vae.inference.proposals import check_proposal
from pyro_vae.inference.streaming import WeightStream, WeightSummary
from pyro_vae.inference.vectorize import plan_particles
from pyro_vae.inference.weights import weight_terms

KHAT_LIMIT = 0.7
"""Above it importance weights are not to be trusted (Vehtari et al., 2024)."""


@dataclass(frozen=True)
class Evidence:
    """Importance-weighted estimates of log p(x_n), in nats.

    Attributes:
        log_px: log (1/K) sum_k w_kn, shape (N,); a stochastic lower bound, E[log_px] = L_K <= log p(x_n).
        std_error: Monte Carlo standard error of each, by the delta method, shape (N,); NaN for K = 1.
        ess: effective sample size (sum w)^2 / sum w^2 out of K, shape (N,).
        khat: Pareto k-hat of the weights, shape (N,); above 0.7 a datum's estimate cannot be trusted.
        elbo: (1/K) sum_k log w_kn, shape (N,).
        curve: {k: (mean over data of L_k, its standard error)} for k = 1, 2, 4, ... <= K.
        num_particles: K.
        seed: the seed it was computed with.
    """

    log_px: Tensor
    std_error: Tensor
    ess: Tensor
    khat: Tensor
    elbo: Tensor
    curve: dict[int, tuple[float, float]]
    num_particles: int
    seed: int

    @property
    def mean(self) -> float:
        """Mean of log_px over data, nats per datum."""
        return self.log_px.mean().item()

    @property
    def stderr(self) -> float:
        """Standard error of ``mean`` as an estimate of E[log p(x)], over data and Monte Carlo.

        s / sqrt(N), with s the sample standard deviation of log_px: each estimate carries its own independent
        Monte Carlo noise, so that s^2 already contains the mean Monte Carlo variance, and adding it would
        count it twice. NaN for N = 1. The noise's downward bias is in ``bias``, not here.
        """
        return _standard_error(self.log_px)

    @property
    def mc_stderr(self) -> float:
        """The Monte Carlo part of ``stderr``: sqrt(sum_n std_error_n^2) / N."""
        return (self.std_error.square().sum().sqrt() / len(self.std_error)).item()

    @property
    def bias(self) -> float:
        """First-order bias of ``mean``, -1/2 mean_n std_error_n^2 <= 0, not corrected for.

        Source: Nowozin (2018), Debiasing Evidence Approximations, proposition 1.
        """
        return -0.5 * self.std_error.square().mean().item()

    @property
    def num_unreliable(self) -> int:
        """Number of data with k-hat above 0.7."""
        return int((self.khat > KHAT_LIMIT).sum())

    def __str__(self) -> str:
        """Return the result in one line."""
        num_data = len(self.log_px)
        khat = "unknown, K < 26" if self.khat.isnan().all() else f"{self.num_unreliable} of {num_data}"
        return (
            f"log p(x) = {self.mean:.2f} +- {self.stderr:.2f} nats  "
            f"(K={self.num_particles}, N={num_data}, k-hat > {KHAT_LIMIT}: {khat})"
        )

    def save(self, path: str | Path) -> None:
        """Write everything to one ``.npz`` file, under a temporary name until it is whole."""
        per_datum = {name: getattr(self, name).numpy() for name in _PER_DATUM}
        curve = np.array([[k, *row] for k, row in self.curve.items()])
        with atomic_path(Path(path)) as temporary, open(temporary, "wb") as file:
            np.savez_compressed(file, curve=curve, num_particles=self.num_particles, seed=self.seed, **per_datum)

    @classmethod
    def load(cls, path: str | Path) -> Evidence:
        """Read what ``save`` wrote.

        Raises:
            ValueError: if the file is missing or unreadable.
        """
        try:
            with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
                per_datum = {name: torch.from_numpy(file[name]) for name in _PER_DATUM}
                curve = {int(k): (mean, se) for k, mean, se in file["curve"].tolist()}
                return cls(**per_datum, curve=curve, num_particles=int(file["num_particles"]), seed=int(file["seed"]))
        except (OSError, ValueError, KeyError, EOFError, BadZipFile, zlib.error) as error:
            raise ValueError(f"Cannot read {path}: {error}. Run the evaluation again.") from error


_PER_DATUM = ("log_px", "std_error", "ess", "khat", "elbo")


@torch.no_grad()
def evidence(
    model: Program,
    guide: Program,
    x: Data,
    num_particles: int = 5000,
    *,
    chunk_size: int = 10_000,
    seed: int = 0,
    device: str | torch.device = "auto",
    progress: bool = True,
) -> Evidence:
    """Estimate log p(x_n) for every datum by importance weighting with the guide as proposal.

        log p(x_n) ~ log (1/K) sum_k p(x_n, z_kn) / q(z_kn | x_n),   z_kn ~ q(z | x_n)

    Weights are streamed: at most ``chunk_size`` (particle, datum) pairs exist at once, so that memory is
    chunk_size times what the programs need for one pair, plus 5 + log2(K) numbers for each datum, whatever K
    and N are. Modules are put in evaluation mode for the while.

    Args:
        model: Pyro program for p(x, z) with an outermost data plate.
        guide: Pyro program for q(z | x).
        x: data, shape (N, *event), or a tuple of tensors with the data first.
        num_particles: K.
        chunk_size: largest number of (particle, datum) pairs in memory at once.
        seed: seed of the draws; the global generator is left as it was.
        device: "auto" (a GPU where there is one), or a torch device.
        progress: show a progress bar, where there is a terminal to show it.

    Returns:
        the estimates with standard errors, ESS, k-hat and the bound's curve over K.

    Raises:
        ValueError: for data that the model cannot have produced, K < 1, programs that ``log_weights`` refuses, a
            point-mass guide, or log weights that are NaN or +inf.

    Source: Burda, Grosse and Salakhutdinov (2016), section 3; standard error: the delta method.
    """
    check_positive_int(num_particles, "num_particles")
    check_positive_int(chunk_size, "chunk_size")
    check_data(model, x)
    args, device = place(model, guide, as_args(x), device)
    num_data = len(args[0])
    chunk_data = max(1, min(num_data, chunk_size // min(num_particles, 256)))
    chunk_particles = max(1, chunk_size // chunk_data)

    parts: list[WeightSummary] = []
    with training_mode(model, guide, False), fork_rng(device, seed):
        first = tuple(arg[:chunk_data] for arg in args)
        plan = plan_particles(model, guide, first) if num_particles > 1 else None
        check_proposal(model, guide, first)
        total = num_data * num_particles
        with tqdm(
            total=total, desc="log p(x)", unit="weight", unit_scale=True, disable=None if progress else True
        ) as bar:
            for batch in zip(*(arg.split(chunk_data) for arg in args), strict=True):
                stream = WeightStream(len(batch[0]), num_particles, device)
                for start in range(0, num_particles, chunk_particles):
                    count = min(chunk_particles, num_particles - start)
                    stream.add(weight_terms(model, guide, batch, count, plan=plan).log_w)
                    bar.update(len(batch[0]) * count)
                parts.append(stream.summary())
    return _collect(parts, num_particles, seed)


def _collect(parts: list[WeightSummary], num_particles: int, seed: int) -> Evidence:
    """Join the chunks of data; refuse NaN and inf rather than average over it."""
    log_px, std_error, ess, elbo, khat = (
        torch.cat([getattr(part, name) for part in parts]) for name in ("log_px", "std_error", "ess", "elbo", "khat")
    )
    bad = log_px.isnan() | (log_px == math.inf)  # -inf is an answer: x has probability 0 at every particle
    if bad.any():
        datum = int(bad.nonzero()[0])
        raise ValueError(
            f"The log weights of datum {datum} are NaN or inf: the programs' parameters or densities are not finite."
        )
    bounds = {k: torch.cat([part.bounds[k] for part in parts]) for k in parts[0].bounds}
    bounds[num_particles] = log_px
    curve = {k: (b.mean().item(), _standard_error(b)) for k, b in bounds.items()}
    return Evidence(log_px, std_error, ess, khat, elbo, curve, num_particles, seed)


def _standard_error(values: Tensor) -> float:
    return (values.std() / math.sqrt(len(values))).item() if len(values) > 1 else math.nan
