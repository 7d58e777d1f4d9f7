"""The command sample: draws from p(x) of a trained run, as numbers and picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jsonargparse import ArgumentParser, Namespace
from torch import Tensor

from pyro_vae.cli.options import Choices, add_data_root, make_parser
from pyro_vae.core.checks import check_positive_int
from pyro_vae.core.files import atomic_path
from pyro_vae.inference.programs.predictive import prior_predictive
from pyro_vae.runs.run import Run, Trained


def make(choices: Choices) -> ArgumentParser:
    """Return the parser of the command."""
    parser = make_parser("Draw from p(x) of a trained run, as numbers and picture.")
    parser.add_argument("run", type=str, help="run directory")
    parser.add_argument(
        "--label",
        type=float,
        nargs="*",
        default=None,
        help="draw from p(x|y) at these labels, in turn; levels of a column by their numbers, from 0 in the order that "
        "training printed (default: those of training data drawn at random)",
    )
    parser.add_argument("--num-samples", type=int, default=64, help="number of draws")
    parser.add_argument("--mean", action="store_true", help="the mean of p(x|z) for each z, instead of a draw of x")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draws")
    parser.add_argument(
        "--out",
        type=str | None,
        default=None,
        help="files OUT.npy, of a table OUT.csv, and OUT.png; RUN/samples if absent",
    )
    add_data_root(parser)
    return parser


def run(options: Namespace) -> None:
    """Write draws from p(x), or their means, as numbers and as a picture."""
    from pyro_vae.report.pictures import image_grid  # matplotlib is not loaded before it is used

    directory = Run(options.run)
    trained = directory.load(options.data_root)
    splits = trained.splits
    check_positive_int(options.num_samples, "num_samples")
    x = draw(trained, options)
    stem = Path(options.out) if options.out else directory.path / "samples"
    array, picture = stem.with_suffix(".csv" if splits.table else ".npy"), stem.with_suffix(".png")
    with atomic_path(array) as temporary, open(temporary, "wb") as file:
        if splits.table:
            splits.table.decode(x).to_csv(file, index=False)
        else:
            np.save(file, x.numpy())
    with atomic_path(picture) as temporary:
        image_grid(x, splits.image_shape).savefig(temporary, format="png", dpi=150, bbox_inches="tight")
    print(f"{array}: {tuple(x.shape)}\n{picture}")


@torch.no_grad()
def draw(trained: Trained, options: Namespace) -> Tensor:
    """Draw x ~ p(x), or the means of p(x|z) at z ~ p(z), shape (num_samples, *event).

    A model of x given y takes the labels in turn or, where none are given, those of training data drawn at random.
    """
    kind, splits, model = trained.kind, trained.splits, trained.model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        y = kind.y(splits, "train")
        if y is not None and not options.label:
            y = y[torch.randint(len(y), (options.num_samples,))]
        if options.label:
            y = kind.encode_labels(splits, options.label)[torch.arange(options.num_samples) % len(options.label)]
        p_x = prior_predictive(model if y is None else kind.given_label(model), options.num_samples, y)
        return p_x.mean if options.mean else p_x.sample()
