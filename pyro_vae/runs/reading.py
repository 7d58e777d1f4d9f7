"""How the data of a config are read: as a table or as numbers, with missing entries, and as level numbers."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_vae.data.binarisation import are_bytes
from pyro_vae.data.splits import PARTS, Splits, share_missing
from pyro_vae.data.tables import has_different_kinds, record_schema
from pyro_vae.inference import Evidence
from pyro_vae.models.likelihoods import Mixed
from pyro_vae.runs.registry import describe_spec, find_part

Config = dict[str, Any]


def how_to_read(config: Config, data: str) -> Config:
    """Return binarize, schema and missing for ``load_data``: what the config says, or what the file calls for.

    Raises:
        ValueError: for a schema with another likelihood than Mixed, or Mixed without a .csv file.
    """
    path, binarize = Path(data).expanduser(), config.get("binarize")
    is_csv = path.suffix.lower() == ".csv"
    missing = config.get("missing")
    missing = is_csv and binarize is None if missing is None else missing
    return {"binarize": binarize, "schema": _schema(config, path, is_csv), "missing": missing}


def _schema(config: Config, path: Path, is_csv: bool) -> Mapping[str, Any] | None:
    schema, likelihood = config.get("schema"), config.get("likelihood")
    mixed = likelihood is not None and find_part("likelihood", likelihood["class_path"]) is Mixed
    if schema is not None and likelihood is not None and not mixed:
        raise ValueError(f"Expected --likelihood Mixed, or none, with --schema; got {likelihood['class_path']}.")
    if mixed and not is_csv:
        raise ValueError(f"Expected a .csv table for --likelihood Mixed; got {path}.")
    if schema is not None or mixed:
        return schema or {}
    chosen = likelihood is not None or config.get("binarize") is not None
    return {} if is_csv and not chosen and has_different_kinds(path) else None


def levels_to_number(config: Config, splits: Splits) -> int | None:
    """Return the number of levels that the likelihood scores, where the data are grey levels of 8-bit images."""
    levels = num_levels(config)
    if levels is None or splits.image_shape is None or splits.max_count is not None or splits.transform is not None:
        return None
    whole = bool((splits.train == splits.train.round()).all())
    return levels if not whole and all(are_bytes(getattr(splits, part)) for part in PARTS) else None


def num_levels(config: Config) -> int | None:
    """Return the number of levels of a likelihood that has levels, such as DiscretizedLogistic."""
    spec = config.get("likelihood")
    if spec is None:
        return None
    parameter = inspect.signature(find_part("likelihood", spec["class_path"])).parameters.get("num_classes")
    return None if parameter is None else spec.get("init_args", {}).get("num_classes", parameter.default)


def as_read(config: Config, splits: Splits) -> Config:
    """Return what the config is to record of how the data were read, so that they are read alike again."""
    has_missing = any(getattr(splits, part).isnan().any() for part in PARTS)
    schema = None if splits.table is None else record_schema(splits.table, config.get("schema") or {})
    return {"schema": schema, "missing": bool(config.get("missing") or has_missing)}


def notes(config: Config, splits: Splits) -> list[str]:
    """Return what was chosen in reading the data, in lines to print."""
    lines = [] if splits.table is None else [f"  {line}" for line in splits.table.describe().splitlines()]
    if config["missing"]:
        share = share_missing([getattr(splits, part) for part in PARTS]).removeprefix(", ") or "no entries missing"
        lines.append(f"{share}: left out of the likelihood, log p(x) is that of the observed entries")
    return lines


def describe_likelihood(config: Config, splits: Splits) -> str:
    """Return the likelihood as a result cites it, of a table with that of each column."""
    if splits.table is None:
        return describe_spec(config["likelihood"])
    return f"Mixed({', '.join(' '.join(line.split()) for line in splits.table.describe().splitlines())})"


def bits_per_dimension(config: Config, splits: Splits, evidence: Evidence) -> str | None:
    """Return -log2 p(x) / D with its standard error where p(x) is the probability of level numbers, D entries each."""
    if num_levels(config) is None or splits.table is not None:
        return None
    bits = splits.event_shape.numel() * math.log(2)
    return (
        f"{-evidence.mean / bits:.4f} +- {evidence.stderr / bits:.4f} (log p(x) is the log probability mass of "
        f"{splits.event_shape.numel()} level numbers)"
    )


def filled(x: Tensor) -> Tensor:
    """Return data with the mean of its entry in the place of each missing one, for parts that start at data."""
    return torch.where(x.isnan(), x.nanmean(0), x).nan_to_num(0.0) if x.isnan().any() else x
