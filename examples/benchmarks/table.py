"""What the tables of test log p(x) share: one budget for every row, one estimator, one line of protocol."""

import platform
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR

import pyro_vae as pv
from pyro_vae.inference import AmortizedGuide, FitResult, evidence, fit, guides
from pyro_vae.inference.objectives import ELBO, Objective
from pyro_vae.models import VAE, likelihoods, mlp, priors

D = 50


@dataclass(frozen=True)
class Row:
    """What a row has instead of a standard normal prior, a diagonal normal guide and the ELBO.

    Attributes:
        objective: what is maximised.
        family: called with D.
        prior: called with D, the guide and the training data.
    """

    objective: Objective = ELBO()  # noqa: RUF009 - objectives hold settings only
    family: Callable[[int], nn.Module] = guides.DiagonalNormal
    prior: Callable[[int, AmortizedGuide, Tensor], nn.Module] = lambda dim, guide, data: priors.StandardNormal(dim)


@dataclass(frozen=True)
class Budget:
    """What every row of a table is given.

    Attributes:
        epochs: passes over the training data, at batch 100, with Adam at 1e-3.
        kl_warmup: epochs over which the KL weight rises to 1.
        decay: the learning rate falls to 0 along a cosine, and the epoch with the best validation bound is kept.
        seed: of initialisation and training.
        num_particles: K of the estimate of log p(x).
    """

    epochs: int = 10
    kl_warmup: int = 0
    decay: bool = False
    seed: int = 0
    num_particles: int = 1000

    def __str__(self) -> str:
        warmup = f", KL warm-up of {self.kl_warmup}" if self.kl_warmup else ""
        decay = " falling to 0 along a cosine, best epoch on validation kept" if self.decay else ""
        return f"{self.epochs} epochs{warmup}, batch 100, Adam 1e-3{decay}, seed {self.seed}"

    def train(self, model: VAE, guide: AmortizedGuide, objective: Objective, splits: pv.Splits) -> FitResult:
        """Train as every row is trained."""
        extra: dict[str, Any] = {}
        if self.decay:
            extra = {
                "scheduler": partial(CosineAnnealingLR, T_max=self.epochs),
                "valid": splits.valid,
                "patience": self.epochs,
            }
        settings = {"objective": objective, "epochs": self.epochs, "kl_warmup": self.kl_warmup, "seed": self.seed}
        return fit(model, guide, splits.train, **settings, **extra)


def build(row: Row, splits: pv.Splits, seed: int) -> tuple[VAE, AmortizedGuide]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        decoder = mlp((200, 200))(torch.Size((D,)), 784)  # first of all, so that all rows start with the same one
        guide = AmortizedGuide((784,), row.family(D), mlp((200, 200)), loc=splits.train.mean(0))
        return VAE(row.prior(D, guide, splits.train), likelihoods.Bernoulli((784,)), decoder), guide


def score(name: str, row: Row, splits: pv.Splits, budget: Budget) -> str:
    model, guide = build(row, splits, budget.seed)
    result = budget.train(model, guide, row.objective, splits)
    seconds = statistics.median(r["seconds"] for r in result.history)
    ev = evidence(model, guide, splits.test, budget.num_particles, method="iw")
    return f"| {name} | {ev.mean:.2f} | {ev.stderr:.2f} | {ev.elbo.mean():.2f} | {seconds:.1f} |"


def write_table(
    rows: Mapping[str, Row],
    data: str,
    data_root: str | None,
    budget: Budget,
    out: str,
) -> None:
    """Train and score every row, printing each as it is done; the file holds all rows so far."""
    splits = pv.load_data(data, root=data_root)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} CPU threads"
    lines = [
        f"{splits.protocol}; {budget}; test log p(x) at K={budget.num_particles}.",
        f"{device}, PyTorch {torch.__version__}, Python {platform.python_version()}, pyro-vae {pv.__version__}.",
        "",
        "| | test log p(x) | SE | test ELBO | s/epoch |",
        "|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        lines.append(score(name, row, splits, budget))
        Path(out).write_text("\n".join(lines) + "\n")
        print(lines[-1], flush=True)


def write_times(rows: Mapping[str, Row], data: str, data_root: str | None, rounds: int, out: str) -> None:
    """Time an epoch of 2,000 data of every row, in turn, and compare each with the first row of its round."""
    splits = pv.load_data(data, root=data_root)
    pairs = {name: build(row, splits, 0) for name, row in rows.items()}
    ratios: dict[str, list[float]] = {name: [] for name in rows}
    for count in range(rounds + 1):
        seconds = {}
        for name, row in rows.items():
            result = fit(*pairs[name], splits.train[:2000], objective=row.objective, epochs=1, progress=False)
            seconds[name] = result.history[0]["seconds"]
        if count:  # the first round warms up
            for name in rows:
                ratios[name].append(seconds[name] / seconds[next(iter(rows))])
    lines = [
        f"Seconds a step, against the first row in the same round; median of {rounds} rounds, smallest to largest."
    ]
    lines += ["", "| | times the first row | |", "|---|---|---|"]
    lines += [f"| {n} | {statistics.median(r):.1f} | {min(r):.1f} to {max(r):.1f} |" for n, r in ratios.items()]
    Path(out).write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
