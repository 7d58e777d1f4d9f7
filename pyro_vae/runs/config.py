"""The config of a run: frozen dataclasses, whose fields are the options of ``pyro-vae train``, and its YAML file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import yaml
from torch import nn

from pyro_vae.core.checks import did_you_mean
from pyro_vae.core.files import write_text
from pyro_vae.core.registry import Spec

FORMAT = 3
"""Format of the file. In format 1, which says nothing of it, classes had their dotted names; up to format 2 a latent
dimension that is not given was 10."""
ACTIVATIONS = {"tanh": nn.Tanh, "relu": nn.ReLU, "softplus": nn.Softplus, "silu": nn.SiLU, "gelu": nn.GELU}
LATENT_DIM = 20
"""Latent dimension where the config has none."""
LATENT_DIM_BEFORE = 10
"""The same in configs of format 2 and before."""
SWITCH = {"metavar": "{true,false}"}


def option(default: Any, text: str, **how: Any) -> Any:
    """Return a field that is an option of the command line.

    Args:
        default: its default.
        text: its help.
        how: further settings of the option, such as nargs and metavar.
    """
    return field(default=default, metadata={"help": text, **how})


def part(name: str | None, **init_args: Any) -> Any:
    """Return a field that names a part, by default this one; None where the data or the model choose, or there is none.

    Args:
        name: plain name of the default; its registry has the help.
        init_args: arguments of the default.
    """
    return field(default=None if name is None else Spec(name, init_args), metadata={"part": True})


@dataclass(frozen=True)
class DataConfig:
    """Which data, and how they are read."""

    data: str = option("digits", "a name (digits, mnist, ...) or a .npy, .npz or .csv file")
    data_root: str | None = option(None, "folder of downloaded data sets")
    binarize: str | None = option(
        None, "how grey levels become binary: static (drawn once), dynamic (anew at each use), threshold (at 1/2)"
    )
    schema: dict[str, Any] | str | None = option(
        None,
        "likelihoods of a .csv table's columns, '{age: Normal, dose: {likelihood: StudentT, df: 5}}', or a YAML file "
        "with them; null leaves a column out, and the values of other columns choose theirs",
    )
    missing: bool | None = option(
        None,
        "whether NaN is a missing entry, left out of the likelihood (default: empty cells of a .csv file are)",
        **SWITCH,
    )
    data_seed: int = option(0, "seed of splits and binarisation")


@dataclass(frozen=True)
class PartsConfig:
    """What model and guide are made of, but for their networks."""

    model: Spec = part("VAE")
    prior: Spec = part("StandardNormal")
    likelihood: Spec | None = part(None)
    guide: Spec = part("DiagonalNormal")
    latent_dim: int | None = option(None, f"latent dimension D (default: {LATENT_DIM})")


@dataclass(frozen=True)
class NetworksConfig:
    """Encoder and decoder."""

    encoder: Spec = part("mlp")
    decoder: Spec = part("mlp")
    hidden: list[int] | None = option(
        None,
        "widths of the hidden layers of both networks (default: 200 200; 300 300 for gated_mlp)",
        nargs="*",
    )
    activation: str | None = option(
        None,
        f"nonlinearity of both networks: {', '.join(ACTIVATIONS)} (default: tanh, relu for convolutions)",
    )
    start_at_data: bool = option(True, "set the decoder's first output bias to the data's marginal", **SWITCH)


@dataclass(frozen=True)
class TrainingConfig:
    """How the parameters are fitted."""

    objective: Spec | None = part(None)
    epochs: int = option(250, "passes over the data")
    batch_size: int = option(100, "data in a minibatch")
    optimizer: Spec = part("Adam", lr=2e-3)
    scheduler: Spec | None = part("Cosine")
    kl_warmup: int = option(0, "epochs over which the KL term's weight rises to 1")
    clip_norm: float | None = option(None, "largest norm of the gradient")
    patience: int | None = option(None, "stop after so many epochs without a gain on validation data")
    watch: Literal["bound", "evidence"] = option(
        "bound",
        "what counts as a gain: the bound, or an estimate of log p(x), every ten epochs",
        metavar="{bound,evidence}",
    )
    seed: int = option(0, "seed of initial values and training")
    device: str = option("auto", "auto, cpu, cuda, ...")
    compile: Literal["auto"] | bool = option(
        "auto", "run training as one compiled graph: auto for long runs alone", metavar="{auto,true,false}"
    )
    precision: Literal["bf16", "tf32"] | None = option(
        None,
        "of networks' matrix products, for speed on a GPU; that of the parameters if absent",
        metavar="{bf16,tf32}",
    )


@dataclass(frozen=True)
class ScoringConfig:
    """How log p(x) of the test split is estimated."""

    method: Spec = part("Auto")
    num_particles: int | None = option(
        None, "importance samples per datum K: 5000 if absent, 16 chains for AIS; Auto has 200 where it anneals"
    )
    audit: int = option(16, "data drawn at random that Auto is held against annealing from the prior at; 0 for none")


@dataclass(frozen=True)
class Config(Mapping[str, Any]):
    """All settings of a run but those of its directory; in its file they stand side by side, without the groups.

    They are had by name too, ``config["epochs"]``, as from a mapping.
    """

    data: DataConfig = field(default_factory=DataConfig)
    parts: PartsConfig = field(default_factory=PartsConfig)
    networks: NetworksConfig = field(default_factory=NetworksConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    scoring: ScoringConfig = field(default_factory=ScoringConfig)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Config:
        """Return the config of settings by name, those that are absent at their defaults.

        Raises:
            ValueError: for a setting that there is not, naming the nearest, or a part that is not named as one.
        """
        groups: dict[str, dict[str, Any]] = {group: {} for group in GROUPS}
        for name, value in values.items():
            if name not in SETTINGS:
                raise ValueError(f"Unknown setting {name!r} in the config.{did_you_mean(str(name), SETTINGS)}")
            if name not in PART_SETTINGS:
                groups[SETTINGS[name]][name] = value
            elif value is not None:  # a part that is null is at its default; but there may be no schedule
                groups[SETTINGS[name]][name] = Spec.of(value)
            elif name == "scheduler":
                groups[SETTINGS[name]][name] = None
        return cls(**{group: kind(**groups[group]) for group, kind in GROUPS.items()})

    def as_dict(self) -> dict[str, Any]:
        """Return the settings by name, as the config's file has them."""
        every = {name: self[name] for name in SETTINGS}
        return {name: value.as_dict() if isinstance(value, Spec) else value for name, value in every.items()}

    def __getitem__(self, name: str) -> Any:
        """Return a setting by its name."""
        return getattr(getattr(self, SETTINGS[name]), name)

    def __iter__(self) -> Iterator[str]:
        """Yield the names of the settings."""
        return iter(SETTINGS)

    def __len__(self) -> int:
        """Return their number."""
        return len(SETTINGS)

    def with_settings(self, **settings: Any) -> Config:
        """Return the config with other values of some settings."""
        groups = {SETTINGS[name] for name in settings}
        changes = {group: {n: v for n, v in settings.items() if SETTINGS[n] == group} for group in groups}
        return replace(self, **{group: replace(getattr(self, group), **c) for group, c in changes.items()})

    def write(self, path: Path) -> None:
        """Write the settings, in the form that ``pyro-vae train --config`` takes."""
        write_text(path, yaml.safe_dump({"format": FORMAT} | self.as_dict(), sort_keys=False))


GROUPS = {
    "data": DataConfig,
    "parts": PartsConfig,
    "networks": NetworksConfig,
    "training": TrainingConfig,
    "scoring": ScoringConfig,
}
SETTINGS = {f.name: group for group, kind in GROUPS.items() for f in fields(kind)}
"""{setting: its group}, in the order of the options."""
PART_SETTINGS = [f.name for kind in GROUPS.values() for f in fields(kind) if f.metadata.get("part")]
"""The settings that name a part."""


def read_settings(path: Path, of_run: bool = False) -> dict[str, Any]:
    """Return the settings in a config's file, of whatever format, that differ from the defaults or not.

    Args:
        path: the file.
        of_run: whether a run was trained with it: one that says no format is then of format 1. Others may be written
            by hand.

    Raises:
        ValueError: if there is no such file, or it is no config, or one of a later version.
    """
    try:
        settings = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"Cannot read the config {path}: {' '.join(str(error).split())}") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{path} is no config of pyro-vae.")
    settings = {str(name).replace("-", "_"): value for name, value in settings.items()}  # as options are spelt
    version = settings.pop("format", 1 if of_run else FORMAT)
    if version not in range(1, FORMAT + 1):
        raise ValueError(f"{path} has format {version!r}; this version of pyro-vae reads up to {FORMAT}. Update it.")
    if version < FORMAT and "latent_dim" in settings and settings["latent_dim"] is None:
        layers = "HierarchicalVAE" in str(settings.get("model"))  # whose latent dimensions are the model's own
        settings["latent_dim"] = None if layers else LATENT_DIM_BEFORE
    return settings
