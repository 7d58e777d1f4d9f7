"""What the tests of data, figures and the command line share."""

from __future__ import annotations

import os

import numpy as np
import pandas as pd
import pytest
import torch

from pyro_vae.cli import main
from pyro_vae.cli.commands import COMMANDS
from pyro_vae.cli.parser import config_of, parse
from pyro_vae.data.load import load_data
from pyro_vae.data.splits import SPLIT_NAMES
from pyro_vae.inference import Evidence
from pyro_vae.runs.setup import set_up

DATA_ROOT = os.environ.get("PYRO_VAE_DATA_ROOT")
QUICK = ["--epochs", "2", "--batch-size", "20", "--hidden", "8", "--latent-dim", "2"]
QUICK += ["--num-particles", "30", "--method", "IW", "--scheduler", "null"]
OWN_PRIOR = """
import pyro.distributions as dist
import torch
from torch import nn


class Wide(nn.Module):
    def __init__(self, dim: int, scale: float = 2.0):
        super().__init__()
        self.log_scale = nn.Parameter(torch.full((dim,), scale).log())

    def forward(self):
        return dist.Normal(torch.zeros_like(self.log_scale), self.log_scale.exp()).to_event(1)
"""
needs_data = pytest.mark.skipif(not DATA_ROOT, reason="set PYRO_VAE_DATA_ROOT to a folder with the real data sets")


def metrics_of(path):
    """The learning curves of a run, without their times."""
    return pd.read_csv(path / "metrics.csv").drop(columns="seconds")


def arrays_of(splits):
    return [getattr(splits, split) for split in SPLIT_NAMES]


def numbered(n, *event):
    """Array whose every entry differs."""
    return np.arange(1, 1 + n * int(np.prod(event)), dtype=np.float32).reshape(n, *event)


def refuses(words, source, **options):
    with pytest.raises(ValueError, match=words) as caught:
        load_data(source, **options)
    assert "\n" not in str(caught.value)


def made_up(log_px, khat, num_particles=100):
    log_px, khat = (torch.tensor(v, dtype=torch.float64) for v in (log_px, khat))
    ones = torch.ones_like(log_px)
    curve = {1: (log_px.mean().item() - 0.1, 0.5), num_particles: (log_px.mean().item(), 0.4)}
    return Evidence(log_px, 0.1 * ones, 10 * ones, khat, log_px - 1, curve, num_particles, seed=0)


def lines(figure):
    return {line.get_label(): line for line in figure.axes[0].get_lines()}


def legend(figure):
    return [text.get_text() for text in figure.axes[0].get_legend().get_texts()]


def render(figure):
    figure.canvas.draw()
    return figure


def train_bits(*extra):
    """Run ``pyro-vae train`` on the data set that the fixture ``folder`` put in the working directory."""
    return main(["train", "--data", "bits.npy", *QUICK, *extra])


def completed(*argv):
    """Return the config that a command line stands for, with its data."""
    setup = set_up(config_of(parse(COMMANDS, ["train", *argv])[1]))
    return setup.config, setup.splits


def built(*argv):
    return set_up(config_of(parse(COMMANDS, ["train", *argv])[1])).build()


def train(*argv):
    return main(["train", *QUICK, *argv])
