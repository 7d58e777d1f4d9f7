"""What the tables of test log p(x) share: one budget for every row, one estimator, one line of protocol."""

import platform
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

import pyro_vae as pv
from pyro_vae.inference import AmortizedGuide, evidence, fit, guides
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


def score(name: str, row: Row, splits: pv.Splits, epochs: int, num_particles: int, seed: int) -> str:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        decoder = mlp((200, 200))(torch.Size((D,)), 784)  # first of all, so that all rows start with the same one
        guide = AmortizedGuide((784,), row.family(D), mlp((200, 200)), loc=splits.train.mean(0))
        model = VAE(row.prior(D, guide, splits.train), likelihoods.Bernoulli((784,)), decoder)
    result = fit(model, guide, splits.train, objective=row.objective, epochs=epochs, seed=seed)
    seconds = statistics.median(r["seconds"] for r in result.history)
    ev = evidence(model, guide, splits.test, num_particles)
    return f"| {name} | {ev.mean:.2f} | {ev.stderr:.2f} | {ev.elbo.mean():.2f} | {seconds:.1f} |"


def write_table(
    rows: Mapping[str, Row],
    data: str,
    data_root: str | None,
    epochs: int,
    num_particles: int,
    seed: int,
    out: str,
) -> None:
    """Train and score every row, printing each as it is done; the file holds all rows so far."""
    splits = pv.load_data(data, root=data_root)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} CPU threads"
    lines = [
        f"{splits.protocol}; {epochs} epochs, batch 100, Adam 1e-3, seed {seed}; test log p(x) at K={num_particles}.",
        f"{device}, PyTorch {torch.__version__}, Python {platform.python_version()}, pyro-vae {pv.__version__}.",
        "",
        "| | test log p(x) | SE | test ELBO | s/epoch |",
        "|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        lines.append(score(name, row, splits, epochs, num_particles, seed))
        Path(out).write_text("\n".join(lines) + "\n")
        print(lines[-1], flush=True)
