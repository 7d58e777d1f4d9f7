"""The commands by name."""

from __future__ import annotations

from pyro_vae.cli import compare, evaluate, impute, parts, report, sample, train
from pyro_vae.cli.options import Command

COMMANDS = {
    "train": Command(train.make, train.run, train.defaults),
    "evaluate": Command(evaluate.make, evaluate.run, evaluate.defaults),
    "compare": Command(compare.make, compare.run),
    "report": Command(report.make, report.run),
    "sample": Command(sample.make, sample.run),
    "impute": Command(impute.make, impute.run),
    "parts": Command(parts.make, parts.run),
}
