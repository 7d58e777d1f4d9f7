"""What a config stands for: data, model and guide, the settings that the data choose, and the facts to cite it by."""

from __future__ import annotations

import platform
from importlib.metadata import version

import torch
from torch import nn

from pyro_vae.data.splits import Splits
from pyro_vae.inference.scoring.estimates import Evidence
from pyro_vae.runs.config import Config
from pyro_vae.runs.kinds import KINDS, kind_of
from pyro_vae.runs.loading import as_read, choose_likelihood, describe_likelihood, read_splits
from pyro_vae.runs.parts import Parts
from pyro_vae.runs.registry import GUIDES, OBJECTIVES, OPTIMIZERS, PRIORS


def load_splits(config: Config) -> Splits:
    """Load the data set that a config names, as its kind of model takes it."""
    return kind_of(config).prepare(read_splits(config.data, config.parts.likelihood))


def completed(config: Config, splits: Splits) -> Config:
    """Return a config with what the data and the kind of model choose where it names nothing.

    Raises:
        ValueError: where the likelihood is the user's to choose.
    """
    return config.with_settings(
        likelihood=config.parts.likelihood or choose_likelihood(splits),
        objective=config.training.objective or kind_of(config).objective,
        **as_read(config.data, splits),
    )


def build(config: Config, splits: Splits) -> tuple[nn.Module, nn.Module]:
    """Build model and guide from a config, with every width taken from the data and the latent dimension.

    Parts whose constructor takes ``data`` are given the training data, and a prior that takes ``guide`` the guide.
    Parameters are initialised with the config's seed; the global generator is left as it was.

    Raises:
        ValueError: for a part that cannot be found or built, or parts that do not go together.
    """
    kind, parts = kind_of(config), Parts(config, splits)
    parts.check_shared_used(kind.further_networks)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.training.seed)
        return kind.build(parts)


def facts(config: Config, splits: Splits, evidence: Evidence, split: str, device: str) -> dict[str, str]:
    """Return all that somebody needs to cite or repeat a result.

    Args:
        config: the settings, completed.
        splits: the data.
        evidence: the result.
        split: the split that was scored.
        device: where.
    """
    kind, parts, training = kind_of(config), Parts(config, splits), config.training
    assert config.parts.likelihood is not None  # the config is completed
    assert training.objective is not None
    packages = {name: version(name) for name in ("pyro-vae", "pyro-ppl", "torch", "arviz")}
    return {
        "data": splits.protocol,
        "estimated": kind.quantity,
        "scored": f"{split} split, N = {len(evidence.log_px)}",
        "estimator": f"{evidence.method}, K = {evidence.num_particles}, seed {evidence.seed}",
        "prior": PRIORS.describe(config.parts.prior),
        "likelihood": describe_likelihood(config.parts.likelihood, splits),
        "guide": GUIDES.describe(config.parts.guide),
        "model": KINDS.describe(config.parts.model),
        "latent dimension": f"{getattr(kind, 'latent_dims', parts.latent_dim)}",
        "networks": parts.describe_networks(),
        "objective": OBJECTIVES.describe(training.objective),
        "training": f"batch {training.batch_size}, {OPTIMIZERS.describe(training.optimizer)}, seed {training.seed}",
        "device": device,
        "versions": ", ".join(f"{name} {v}" for name, v in packages.items()) + f", Python {platform.python_version()}",
    }
