"""What a config comes to: its kind of model, its data as they take them, and the settings that the data choose."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from pyro_vae.core.registry import Spec
from pyro_vae.data.binarisation import are_bytes
from pyro_vae.data.load import load_data
from pyro_vae.data.splits import SPLIT_NAMES, Splits, share_missing
from pyro_vae.data.tables import LIKELIHOODS, has_different_kinds, record_schema
from pyro_vae.inference.programs.call import Data
from pyro_vae.inference.training.schedules import Cosine
from pyro_vae.models.likelihoods import Mixed
from pyro_vae.runs.config import Config, DataConfig
from pyro_vae.runs.kinds import KINDS, Kind, Programs
from pyro_vae.runs.parts import Parts


@dataclass(frozen=True)
class Setup:
    """What a config comes to.

    Attributes:
        config: the settings, with what the data and the kind of model choose where nothing was named.
        kind: what model and guide are, and what they are called with.
        splits: the data.
    """

    config: Config
    kind: Kind
    splits: Splits

    @cached_property
    def parts(self) -> Parts:
        """What the config and the data determine of model and guide."""
        return Parts(self.config, self.splits)

    def build(self) -> Programs:
        """Build model and guide, with every width taken from the data and the latent dimension.

        Parts whose constructor takes ``data`` are given the training data, and a prior that takes ``guide`` the guide.
        Parameters are initialised with the config's seed; the global generator is left as it was.

        Raises:
            ValueError: for a part that cannot be found or built, or parts that do not go together.
        """
        self.parts.check_shared_used(self.kind.further_networks)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.training.seed)
            model, guide = self.kind.build(self.parts)
        dtype = self.splits.train.dtype
        return model.to(dtype), guide.to(dtype)

    def data(self, split: str) -> Data:
        """Return what the programs are called with when a split of the data is scored."""
        return self.kind.data(self.splits, split)


def set_up(config: Config) -> Setup:
    """Read the data that a config names, and choose by them what it leaves open.

    Raises:
        ValueError: for data that cannot be read, or a likelihood that is the user's to choose.
    """
    kind = KINDS.build(config.parts.model)
    splits = kind.prepare(read_splits(config.data, config.parts.likelihood))
    chosen = {
        "likelihood": config.parts.likelihood or choose_likelihood(splits),
        "objective": config.training.objective or kind.objective,
        "scheduler": _with_length(config),
    }
    return Setup(config.with_settings(**chosen, **_as_read(config.data, splits)), kind, splits)


def _with_length(config: Config) -> Spec | None:
    """Return the schedule, one by a cosine as long as the training where its length is not given."""
    scheduler = config.training.scheduler
    if scheduler is None or scheduler.name != Cosine.__name__:
        return scheduler
    given = {name: value for name, value in scheduler.init_args.items() if value is not None}
    return Spec(scheduler.class_path, {"epochs": config.training.epochs} | given)


def data_path(config: DataConfig, root: str | None = None) -> Path:
    """Return where a config's data file is: where it was, or in the folder of data sets if it has moved there."""
    path = Path(config.data)
    moved = Path(root or ".") / path.name
    return moved if root and not path.exists() and moved.is_file() else path


def read_splits(config: DataConfig, likelihood: Spec | None) -> Splits:
    """Read the data set that a config names, as its likelihood takes it: as a table, or as numbers of levels.

    Raises:
        ValueError: for data that ``load_data`` refuses, or a likelihood that does not go with a schema or the file.
    """
    path = data_path(config, config.data_root)
    source = str(path) if path.is_file() else config.data
    settings: dict[str, Any] = {
        "root": config.data_root,
        "seed": config.data_seed,
        "binarize": config.binarize,
        "schema": _schema(config, likelihood, path),
        "missing": _takes_missing(config, path),
    }
    splits = load_data(source, **settings)
    levels = _levels_to_number(likelihood, splits)
    return splits if levels is None else load_data(source, levels=levels, **settings)


def _takes_missing(config: DataConfig, path: Path) -> bool:
    """Say whether NaN is missing: as the config says, or in a .csv file that is not made binary."""
    return _is_csv(path) and config.binarize is None if config.missing is None else config.missing


def _is_csv(path: Path) -> bool:
    return path.suffix.lower() == ".csv"


def _schema(config: DataConfig, likelihood: Spec | None, path: Path) -> Mapping[str, Any] | None:
    """Return the schema that a table is read with, None for data that are read as numbers."""
    mixed = likelihood is not None and LIKELIHOODS.find(likelihood.class_path) is Mixed
    schema: Any = config.schema
    if schema is not None and likelihood is not None and not mixed:
        raise ValueError(f"Expected --likelihood Mixed, or none, with --schema; got {likelihood.class_path}.")
    if mixed and not _is_csv(path):
        raise ValueError(f"Expected a .csv table for --likelihood Mixed; got {path}.")
    if schema is not None or mixed:
        return schema or {}
    chosen = likelihood is not None or config.binarize is not None
    return {} if _is_csv(path) and not chosen and has_different_kinds(path) else None


def _levels_to_number(likelihood: Spec | None, splits: Splits) -> int | None:
    """Return the number of levels that the likelihood scores, where the data are grey levels of 8-bit images."""
    levels = num_levels(likelihood)
    if levels is None or splits.image_shape is None or splits.max_count is not None or splits.transform is not None:
        return None
    whole = bool((splits.train == splits.train.round()).all())
    return levels if not whole and all(are_bytes(getattr(splits, split)) for split in SPLIT_NAMES) else None


def num_levels(likelihood: Spec | None) -> int | None:
    """Return the number of levels of a likelihood that has levels, such as DiscretizedLogistic."""
    if likelihood is None:
        return None
    parameter = inspect.signature(LIKELIHOODS.find(likelihood.class_path)).parameters.get("num_classes")
    return None if parameter is None else likelihood.init_args.get("num_classes", parameter.default)


def choose_likelihood(splits: Splits) -> Spec:
    """Return the likelihood that the data's values call for.

    Raises:
        ValueError: for grey levels and counts, where the choice is the user's.
    """
    if splits.table is not None:
        return Spec("Mixed")
    if splits.max_count is not None:
        return Spec("Binomial", {"total_count": splits.max_count})
    train = splits.train[~splits.train.isnan()]
    if splits.transform is not None or ((train == 0) | (train == 1)).all():
        return Spec("Bernoulli")
    if (train >= 0).all() and (train == train.round()).all():
        images = "DiscretizedLogistic for 8-bit images; " if splits.image_shape is not None else ""
        raise ValueError(
            f"{splits.name} holds counts. Choose their likelihood: --likelihood {images}NegativeBinomial or Poisson; "
            "Binomial --likelihood.total_count N if each entry is out of a known N; or Normal to take them as real "
            "numbers."
        )
    if splits.image_shape is not None:
        raise ValueError(
            f"{splits.name} has grey levels. Choose how to binarise them, --binarize dynamic (or static, threshold), "
            "or a likelihood for continuous data, --likelihood Normal."
        )
    return Spec("Normal", {"scale": "dimension"})


def _as_read(config: DataConfig, splits: Splits) -> dict[str, Any]:
    """Return the settings that record how the data were read, so that they are read alike again."""
    has_missing = any(getattr(splits, split).isnan().any() for split in SPLIT_NAMES)
    asked: Any = config.schema or {}
    schema = None if splits.table is None else record_schema(splits.table, asked)
    return {"schema": schema, "missing": bool(config.missing or has_missing)}


def notes(config: DataConfig, splits: Splits) -> list[str]:
    """Return what was chosen in reading the data, in lines to print."""
    lines = [] if splits.table is None else [f"  {line}" for line in splits.table.describe().splitlines()]
    if splits.train.dtype == torch.float64:
        lines.append("whole numbers above 16,777,216, which float32 cannot hold: data and model are float64")
    if config.missing:
        share = share_missing([splits.train, splits.valid, splits.test]).removeprefix(", ") or "no entries missing"
        lines.append(f"{share}: left out of the likelihood, log p(x) is that of the observed entries")
    return lines
