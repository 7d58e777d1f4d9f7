"""What a config stands for: data, likelihood, model and guide, and the facts to cite a result by."""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vae.data.load import load_data
from pyro_vae.data.splits import Splits
from pyro_vae.inference import Evidence
from pyro_vae.models import likelihoods
from pyro_vae.runs import reading
from pyro_vae.runs.kinds import VAE, Pair
from pyro_vae.runs.materials import Materials
from pyro_vae.runs.registry import build_part, class_path, describe_spec

Config = dict[str, Any]


def load_splits(config: Config) -> Splits:
    """Load the data set that a config names."""
    data, root = config["data"], config.get("data_root")
    if data_path(config, root).is_file():
        data = str(data_path(config, root))
    settings = {"root": root, "seed": config["data_seed"], **reading.how_to_read(config, data)}
    splits = load_data(data, **settings)
    levels = reading.levels_to_number(config, splits)
    if levels is not None:
        splits = load_data(data, levels=levels, **settings)
    return pair_of(config).prepare(splits, data)


def data_path(config: Config, root: str | None = None) -> Path:
    """Return where a config's data file is: where it was, or in the folder of data sets if it has moved there."""
    path = Path(config["data"])
    moved = Path(root or ".") / path.name
    return moved if root and not path.exists() and moved.is_file() else path


def pair_of(config: Config) -> Pair:
    """Return the kind of model and guide that a config names."""
    return build_part("model", model_spec(config))


def model_spec(config: Config) -> Config:
    """Return the kind of model and guide that a config names, as it is written there."""
    return config.get("model") or {"class_path": class_path(VAE)}


def choose_likelihood(splits: Splits) -> Config:
    """Return the likelihood that the data's values call for.

    Raises:
        ValueError: for grey levels, where the choice is the user's.
    """

    def spec(name: str, **init_args: Any) -> Config:
        arguments = {"init_args": init_args} if init_args else {}
        return {"class_path": f"{likelihoods.__name__}.{name}"} | arguments

    if splits.table is not None:
        return spec("Mixed")
    if splits.max_count is not None:
        return spec("Binomial", total_count=splits.max_count)
    train = splits.train[~splits.train.isnan()]
    if splits.transform is not None or ((train == 0) | (train == 1)).all():
        return spec("Bernoulli")
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
    return spec("Normal", scale="dimension")


def build(config: Config, splits: Splits) -> tuple[nn.Module, nn.Module]:
    """Build model and guide from a config, with every width taken from the data and the latent dimension.

    Parts whose constructor takes ``data`` are given the training data, and a prior that takes ``guide`` the guide.
    Parameters are initialised with the config's seed; the global generator is left as it was.

    Raises:
        ValueError: for a part that cannot be found or built, or parts that do not go together.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config["seed"])
        return pair_of(config).build(Materials(config, splits, *standardization(splits)))


def standardization(splits: Splits) -> tuple[Tensor, Tensor]:
    """Return what the encoder subtracts and divides by.

    The mean of each entry over the training data, without what is missing; for pictures one standard deviation for
    all entries, since a border pixel's own is close to 0, and for tables that of each column.
    """
    loc = splits.train.nanmean(0).nan_to_num(0.0)
    squares, observed = (splits.train - loc).square(), ~splits.train.isnan()
    if splits.image_shape:
        squares, observed = squares.flatten(), observed.flatten()
    scale = (squares.nansum(0) / (observed.sum(0) - 1).clamp(min=1)).sqrt()
    return loc, torch.where(scale > 0, scale, torch.ones_like(scale))


def facts(config: Config, splits: Splits, evidence: Evidence, split: str, device: str) -> dict[str, str]:
    """Return all that somebody needs to cite or repeat the result."""
    pair, materials = pair_of(config), Materials(config, splits, *standardization(splits))
    packages = {name: version(name) for name in ("pyro-vae", "pyro-ppl", "torch", "arviz")}
    return {
        "data": splits.protocol,
        "estimated": pair.quantity,
        "scored": f"{split} split, N = {len(evidence.log_px)}",
        "estimator": f"{evidence.method}, K = {evidence.num_particles}, seed {evidence.seed}",
        "prior": describe_spec(config["prior"]),
        "likelihood": reading.describe_likelihood(config, splits),
        "guide": describe_spec(config["guide"]),
        "model": describe_spec(model_spec(config)),
        "latent dimension": f"{getattr(pair, 'latent_dims', materials.latent_dim)}",
        "networks": materials.describe_networks(),
        "objective": describe_spec(config["objective"]),
        "training": f"batch {config['batch_size']}, {describe_spec(config['optimizer'])}, seed {config['seed']}",
        "device": device,
        "versions": ", ".join(f"{name} {v}" for name, v in packages.items()) + f", Python {platform.python_version()}",
    }
