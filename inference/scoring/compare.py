"""Comparison of models by log p(x) of the same data."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pyro_vae.core.checks import check_positive_int
from pyro_vae.inference.programs.call import Data, Program
from pyro_vae.inference.programs.standard_errors import monte_carlo_error, standard_error
from pyro_vae.inference.scoring.estimates import Evidence
from pyro_vae.inference.scoring.evidence import evidence
from pyro_vae.inference.scoring.importance import IW

if TYPE_CHECKING:
    import pandas as pd


def compare(evidences: Mapping[str, Evidence]) -> pd.DataFrame:
    """Rank models by log p(x), with standard errors of the paired differences.

        d_n = log p_best(x_n) - log p_m(x_n),   diff = mean_n d_n,   diff_stderr = sd(d_n) / sqrt(N)

    Data that are hard for one model are hard for all, so that the error of a difference is much smaller than
    those of the two means. ``diff_stderr`` covers data and Monte Carlo, both independent between data.

    Differences mean something only for the same x given the same: log p(x | y) and log p(x, y), and a density and a
    probability mass of x, are refused where the programs show it. They do not show a likelihood that conditions on a
    part of x, as the multinomial does on its total. float32 and float64 copies of data count as the same.

    Of joint estimates, ``evidence(..., joint=True)``, the difference is the log Bayes factor of the best model over the
    other, and both errors are Monte Carlo's, of independent noise: there is no other, the data being given.

    Args:
        evidences: {name: what ``evidence`` returned}, of the same data, by the same method, at the same K.

    Returns:
        a table, the best model first, with the columns rank, log_px, stderr, diff, diff_stderr, diff_mc_stderr (the
        Monte Carlo error of diff as if the two had independent noise; evaluations with one seed share theirs, and
        diff_stderr alone is right), bias (of first order, still in log_px; NaN where too many are flagged) and
        num_flagged (data with k-hat above 0.7), in nats per datum; ``attrs["protocol"]`` says how all were scored.

    Raises:
        ValueError: for fewer than two models, or estimates that cannot be compared: of other data, another
            number of data, by another method, at another K or precision, where the estimate itself differs, or of
            something else of them.
    """
    if not isinstance(evidences, Mapping) or not all(isinstance(e, Evidence) for e in evidences.values()):
        raise ValueError('Expected a dict of evidences by name, {"a": evidence(...), "b": evidence(...)}.')
    if len(evidences) < 2:
        raise ValueError(f"Expected at least two models to compare; got {len(evidences)}.")
    check_comparable(evidences)
    import pandas as pd

    names = sorted(evidences, key=lambda name: -evidences[name].mean)
    best = evidences[names[0]]
    rows = [_row(rank, evidences[name], best) for rank, name in enumerate(names)]
    table = pd.DataFrame(rows, index=pd.Index(names, name="model"))
    number, unit = (best.joint, "nats, joint") if best.joint else (len(best.log_px), "nats per datum")
    table.attrs["protocol"] = f"{best.method}, K = {best.num_particles}, N = {number}; {unit}"
    return table


def _row(rank: int, evidence: Evidence, best: Evidence) -> dict[str, float]:
    same = evidence is best
    difference: Tensor = best.log_px - evidence.log_px
    noise = monte_carlo_error(best.std_error.square() + evidence.std_error.square()).item()
    return {
        "rank": rank,
        "log_px": evidence.mean,
        "stderr": evidence.stderr,
        "diff": difference.mean().item(),
        "diff_stderr": 0.0 if same else noise if best.joint else standard_error(difference).item(),
        "diff_mc_stderr": 0.0 if same else noise,
        "bias": evidence.bias,
        "num_flagged": evidence.num_flagged,
    }


def check_comparable(evidences: Mapping[str, Evidence]) -> None:
    """Refuse estimates that differ in anything but the model, or whose mean is -inf.

    Raises:
        ValueError: naming the first two that cannot be compared, and why.
    """
    check_same_data(evidences)
    how = ("method", "num_particles", "precision")
    _check_same(evidences, lambda e: {name: getattr(e, name) or "full" for name in how})
    known = {name: e for name, e in evidences.items() if e.scored}
    if known:
        _check_same(known, lambda e: {"quantity (which arguments are observed, by density or mass)": e.scored})
    for name, found in evidences.items():
        if math.isinf(found.mean):
            raise ValueError(f"{name} gives some data log p(x) = -inf: its mean cannot be compared.")


def check_same_data(evidences: Mapping[str, Evidence]) -> None:
    """Refuse estimates of different data, with a ``ValueError`` that names the first two."""
    _check_same(evidences, lambda e: {"quantity": "one log p(x_1, ..., x_N)" if e.joint else "log p(x) of each datum"})
    _check_same(evidences, lambda e: {"number of data": e.joint or len(e.log_px), "data": e.data or "no hash"})


def _check_same(evidences: Mapping[str, Evidence], facts: Callable[[Evidence], dict[str, object]]) -> None:
    first, *others = evidences
    for name in others:
        for what, value in facts(evidences[first]).items():
            other = facts(evidences[name])[what]
            if other != value:
                raise ValueError(
                    f"Expected the same {what} of all that are compared; {first} has {value}, {name} has {other}. "
                    "Score them alike with evidence(...)."
                )


@dataclass(frozen=True)
class Gaps:
    """The inference gap of each datum and its two parts, each of shape (N,), in nats.

        log p(x) - ELBO(q) = [log p(x) - ELBO(q*)] + [ELBO(q*) - ELBO(q)]

    Attributes:
        approximation: log p(x) - ELBO(q*), what the best member q* of the family lacks.
        amortization: ELBO(q*) - ELBO(q), what the encoder loses on the way there.
        log_px: the estimate of log p(x) that the first is held against.
    """

    approximation: Tensor
    amortization: Tensor
    log_px: Evidence

    @property
    def inference(self) -> Tensor:
        """The whole gap log p(x) - ELBO(q), shape (N,)."""
        return self.approximation + self.amortization

    @property
    def means(self) -> dict[str, tuple[float, float]]:
        """{part: (mean over data, its standard error over data and Monte Carlo)}, nats per datum."""
        parts = {"approximation": self.approximation, "amortization": self.amortization, "inference": self.inference}
        return {name: (values.mean().item(), standard_error(values).item()) for name, values in parts.items()}

    def __str__(self) -> str:
        """Return the means in one line."""
        shown = ", ".join(f"{name} {mean:.2f} +- {error:.2f}" for name, (mean, error) in self.means.items())
        return f"gaps: {shown} nats  (K={self.log_px.num_particles}, N={len(self.approximation)})"


def gaps(
    model: Program,
    guide: Program,
    x: Data,
    num_particles: int = 5000,
    *,
    steps: int = 300,
    log_px: Evidence | None = None,
    chunk_size: int = 10_000,
    seed: int = 0,
    device: str | torch.device = "auto",
    progress: bool = True,
) -> Gaps:
    """Decompose the inference gap into approximation gap and amortisation gap.

    q* is fitted to each datum from where the guide puts it, as ``methods.IW(refine=steps)`` does, a local optimum:
    the approximation gap is an upper bound on the family's, the amortisation gap a lower one. log p(x) is a
    stochastic lower bound itself, here with q* as the proposal; a better one, such as that of annealed importance
    sampling, can be handed in.

    Args:
        model: Pyro program for p(x, z) with all sites in a data plate.
        guide: Pyro program for q(z | x), continuous.
        x: data, shape (N, *event), or a tuple of tensors with the data first.
        num_particles: K, for both ELBOs and for log p(x).
        steps: gradient steps that fit q*.
        log_px: an estimate of log p(x) of the same data to hold the ELBO against.
        chunk_size: largest number of (particle, datum) pairs in memory at once.
        seed: seed of the draws.
        device: "auto" (a GPU where there is one), or a torch device.
        progress: show progress bars.

    Raises:
        ValueError: for a discrete guide, fewer than 1 step, or a ``log_px`` of other data.

    Source: Cremer, Li and Duvenaud (2018), Inference Suboptimality in Variational Autoencoders, section 3.
    """
    check_positive_int(steps, "steps")
    amortized, best = (
        evidence(
            model,
            guide,
            x,
            num_particles,
            method=IW(refine=refine),
            chunk_size=chunk_size,
            seed=seed,
            device=device,
            progress=progress,
        )
        for refine in (0, steps)
    )
    reference = best if log_px is None else log_px
    check_same_data({"the guide": amortized, "log_px": reference})
    return Gaps(reference.log_px - best.elbo, best.elbo - amortized.elbo, reference)
