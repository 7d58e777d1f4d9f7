"""A run directory: config, checkpoint, metrics, evidence, result and report, each whole or not there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from torch import nn

from pyro_vae.core.files import make_folder, write_text
from pyro_vae.core.registry import Spec
from pyro_vae.data.splits import Splits
from pyro_vae.inference.scoring import methods
from pyro_vae.inference.scoring.estimates import Evidence
from pyro_vae.inference.training.checkpoints import load_checkpoint
from pyro_vae.runs.config import Config, read_settings
from pyro_vae.runs.kinds import Kind
from pyro_vae.runs.registry import METHODS
from pyro_vae.runs.result import numbers_of
from pyro_vae.runs.setup import Setup, set_up


@dataclass(frozen=True)
class Trained:
    """What a run directory holds once it is loaded; unpacks into config, splits, model, guide and history.

    Attributes:
        setup: the settings, the data and the kind of model.
        model: p(x, z), as it was trained.
        guide: q(z|x), as it was trained.
        history: one row an epoch.
    """

    setup: Setup
    model: nn.Module
    guide: nn.Module
    history: list[dict[str, float]]

    def __iter__(self) -> Iterator[Any]:
        """Yield config, splits, model, guide and history."""
        return iter((self.config, self.splits, self.model, self.guide, self.history))

    @property
    def config(self) -> Config:
        """The settings."""
        return self.setup.config

    @property
    def splits(self) -> Splits:
        """The data."""
        return self.setup.splits

    @property
    def kind(self) -> Kind:
        """What model and guide are, and what they are called with."""
        return self.setup.kind

    def in_words(self, evidence: Evidence, run: Path) -> str:
        """Return the result in one line, with the command that is to be tried next where many data are flagged.

        Args:
            evidence: the result.
            run: the directory of the run, or of an evaluation in it.
        """
        line = evidence.line.replace("log p(x)", self.kind.quantity)
        if evidence.next_step is None:
            return line
        path = run if Run(run).config_file.exists() else run.parent
        name = type(methods.BY_NAME[evidence.next_step]()).__name__
        return f"{line}  next: pyro-vae evaluate {path} --method {name}"


class Run:
    """A directory that holds one training run and its evaluations.

    Args:
        path: the directory.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config_file = self.path / "config.yaml"
        self.data = self.path / "data.json"
        self.checkpoint = self.path / "checkpoint.pt"
        self.metrics = self.path / "metrics.csv"
        self.evidence = self.path / "evidence.npz"
        self.result = self.path / "result.json"
        self.report = self.path / "report.html"

    @property
    def files(self) -> list[Path]:
        """All files of a run."""
        of_result = [self.metrics, self.evidence, self.result, self.report]
        return [self.config_file, self.data, self.checkpoint, *of_result]

    def create(self, config: Config, overwrite: bool = False) -> None:
        """Make the directory and write the config.

        Raises:
            ValueError: if it cannot be written, or holds a run and ``overwrite`` is not set.
        """
        if self.config_file.exists() and not overwrite:
            raise ValueError(
                f"{self.path} holds a run already. Continue it with `pyro-vae train --resume {self.path}`, "
                "replace it with --overwrite, or choose another --out."
            )
        make_folder(self.path)
        for file in [*self.files, *self.path.glob("evidence-*.partial.npz")]:
            file.unlink(missing_ok=True)
        self.write_config(config)

    def write_config(self, config: Config) -> None:
        """Write the settings, in the form that ``pyro-vae train --config`` takes."""
        config.write(self.config_file)

    def config(self) -> Config:
        """Read the config, of this version or an earlier one.

        Raises:
            ValueError: if the directory holds no run, or its config has a setting that there is not.
        """
        if not self.config_file.is_file():
            raise ValueError(f"{self.path} holds no run: cannot read {self.config_file}.")
        return Config.from_dict(read_settings(self.config_file, of_run=True))

    def load(self, data_root: str | None = None) -> Trained:
        """Load what was trained: config, data, model, guide and history.

        Raises:
            ValueError: if the run, its data or its checkpoint cannot be read.
        """
        config = self.config()
        setup = set_up(config.with_settings(data_root=data_root) if data_root else config)
        self.check_fingerprint(setup.splits)
        model, guide = setup.build()
        state = load_checkpoint(self.checkpoint, model, guide)
        return Trained(setup, model, guide, state["history"])

    def write_fingerprint(self, splits: Splits) -> None:
        """Write down which data the run is of, so that a later evaluation is of the same."""
        write_text(self.data, json.dumps({"sha256": fingerprint(splits), "protocol": splits.protocol}) + "\n")

    def check_fingerprint(self, splits: Splits) -> None:
        """Refuse data that have changed: another split of them would mix training data into the test data.

        Raises:
            ValueError: if the data are not those that the run was trained on.
        """
        if self.data.exists() and json.loads(self.data.read_text())["sha256"] != fingerprint(splits):
            raise ValueError(
                f"The data of {self.path} have changed since it was trained: {splits.protocol}. Put the old data "
                "back, or train anew."
            )

    def evaluation(self, split: str, method: Spec, num_particles: int, seed: int) -> Run:
        """Return the folder of a later evaluation, beside the run's own result and never over it."""
        settings = "".join(f"-{name}{value}" for name, value in METHODS.changed(method).items())
        name = method.name.lower() + settings
        prefix = split if name == "iw" else f"{split}-{name}"
        return Run(make_folder(self.path / f"{prefix}-K{num_particles}-seed{seed}"))

    def write_metrics(self, history: list[dict[str, float]]) -> None:
        """Write the history, one row an epoch."""
        write_text(self.metrics, pd.DataFrame(history).to_csv(index=False))

    def write_result(self, evidence: Evidence, facts: dict[str, str]) -> None:
        """Write the estimates for each datum, and the result with all that citing it needs."""
        evidence.save(self.evidence)
        write_text(self.result, json.dumps(numbers_of(evidence) | facts, indent=2) + "\n")

    def facts(self) -> dict[str, str]:
        """Return all that citing the run's result needs, as it was written down.

        Raises:
            ValueError: if there is no result yet.
        """
        try:
            result = json.loads(self.result.read_text())
        except (OSError, ValueError) as error:
            raise ValueError(f"{self.path} holds no result: cannot read {self.result}.") from error
        return {name: value for name, value in result.items() if isinstance(value, str) and name != "unit"}


def fingerprint(splits: Splits) -> str:
    """Return a hash of the splits' values."""
    column = splits.labels if splits.labels and splits.image_shape is None else {}  # taken out of x
    arrays = (splits.train, splits.valid, splits.test, *column.values())
    return hashlib.sha256(b"".join(array.contiguous().numpy().tobytes() for array in arrays)).hexdigest()


def next_path(data: str, root: Path = Path("runs")) -> Path:
    """Return the first free runs/DATA-NNN."""
    stem = Path(data).stem
    return next(path for i in range(1, 10**6) if not (path := root / f"{stem}-{i:03d}").exists())
