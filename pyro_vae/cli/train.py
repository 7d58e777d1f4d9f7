"""The command train: from a config to a trained run, its log p(x) and its report."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

import torch
from jsonargparse import ArgumentParser, Namespace
from torch import Tensor, nn

from pyro_vae.cli.options import Choices, Classes, add_settings, make_parser
from pyro_vae.cli.parser import config_of
from pyro_vae.cli.scoring import score
from pyro_vae.core.checks import check_int, check_positive_int
from pyro_vae.data.tables import read_schema
from pyro_vae.inference.programs.call import as_args, check_data, place_programs, short_errors
from pyro_vae.inference.programs.proposals import check_proposal
from pyro_vae.inference.training.checkpoints import read_checkpoint
from pyro_vae.inference.training.fit import FitResult, check_settings, fit
from pyro_vae.models.initialization import start_at_data
from pyro_vae.runs.config import (
    PART_SETTINGS,
    Config,
    DataConfig,
    NetworksConfig,
    PartsConfig,
    ScoringConfig,
    TrainingConfig,
)
from pyro_vae.runs.kinds import KINDS, Programs
from pyro_vae.runs.registry import METHODS, OBJECTIVES, OPTIMIZERS, REGISTRIES, SCHEDULERS
from pyro_vae.runs.run import Run, Trained, next_path
from pyro_vae.runs.setup import Setup, notes, set_up

START_DATA = 5000
"""Training data that the decoder's first bias is taken from, at most."""
START_VALUES = 10**8
"""Features of the likelihood that this takes for all of them together, at most, if that leaves 100 data."""
PARTS_HELP = (
    "PART is a name that `pyro-vae parts` lists, or a class of yours as package.module.Class. Its arguments are "
    "options too: --prior Mixture --prior.num_components 10. `pyro-vae parts PART` shows what it is and takes."
)
KEPT_PARTS = ("model", "prior", "likelihood", "guide", "encoder", "decoder", "objective")
KEPT = (*KEPT_PARTS, "latent_dim", "hidden", "activation", "batch_size", "precision")
"""Settings that a run is resumed with as it was trained with them."""


def defaults(classes: Classes) -> dict[str, Any]:
    """Return the part of each kind where none is named; the kind of model has its own objective."""
    kind: Any = classes.get("model") or KINDS.find(Config().parts.model.class_path)
    return {name: Config()[name] for name in PART_SETTINGS} | {"objective": kind.objective}


def make(choices: Choices) -> ArgumentParser:
    """Return the parser of the command."""
    parser = make_parser(
        "Train on a data set, estimate log p(x) of its test split, and write a run directory.",
        usage="pyro-vae train [--data DATA] [--prior PART] [--likelihood PART] [--guide PART] [options]",
    )
    parser.add_argument("--config", action="config", help="a config.yaml, such as one from a run directory")
    add_settings(parser.add_argument_group("data"), DataConfig, choices)
    add_settings(parser.add_argument_group("model and guide", PARTS_HELP), PartsConfig, choices)
    networks = parser.add_argument_group("networks", "A class of yours is called with in_shape and out_features.")
    add_settings(networks, NetworksConfig, choices)
    add_settings(parser.add_argument_group("training"), TrainingConfig, choices)
    add_settings(parser.add_argument_group("evaluation"), ScoringConfig, choices)
    run = parser.add_argument_group("run directory")
    run.add_argument("--out", type=str | None, default=None, help="run directory; runs/DATA-NNN if absent")
    run.add_argument("--overwrite", action="store_true", help="replace the run that --out holds")
    run.add_argument("--resume", type=str | None, default=None, help="go on with the run in this directory")
    return parser


def run(options: Namespace) -> None:
    """Train, estimate log p(x) of the test split, and write the run directory."""
    setup = set_up(_with_data_found(config_of(options)))
    model, guide = setup.build()
    objective = _objective(setup.config)
    train = _checked_training_data(setup, model, guide)
    if setup.config.networks.start_at_data and not options.resume:
        _start_at_data(model, train)
    directory = _directory(options, setup)
    chosen = notes(setup.config.data, setup.splits)
    print("\n".join([setup.splits.protocol, *chosen, f"run directory: {directory.path}"]))
    result = _fit(directory, setup, (model, guide), objective, resume=bool(options.resume))
    directory.write_metrics(result.history)
    if result.execution != "eager":
        print(f"training {result.execution}")
    _score(directory, Trained(setup, model, guide, result.history))


def _with_data_found(config: Config) -> Config:
    """Return the config with a schema that was a file read, and paths that do not depend on the working directory."""
    settings: dict[str, Any] = {"schema": read_schema(config.data.schema)}
    for name in ("data", "data_root"):
        if config[name] and Path(config[name]).exists():
            settings[name] = str(Path(config[name]).resolve())
    return config.with_settings(**settings)


def _directory(options: Namespace, setup: Setup) -> Run:
    """Return the run directory with its config and fingerprint: a new one, or the one to go on with."""
    directory = Run(options.resume or options.out or next_path(setup.config.data.data))
    if not options.resume:
        directory.create(setup.config, options.overwrite)
        directory.write_fingerprint(setup.splits)
        return directory
    directory.check_fingerprint(setup.splits)
    _check_same_settings(directory, setup.config)
    _check_epochs(directory, setup.config.training.epochs)
    directory.write_config(setup.config)
    return directory


def _objective(config: Config) -> Any:
    assert config.training.objective is not None  # chosen by the kind of model where none is named
    return OBJECTIVES.build(config.training.objective)


def _fit(directory: Run, setup: Setup, programs: Programs, objective: Any, resume: bool) -> FitResult:
    training = setup.config.training
    try:
        return fit(
            *programs,
            setup.kind.training_data(setup.splits),
            objective=objective,
            epochs=training.epochs,
            batch_size=training.batch_size,
            valid=setup.data("valid"),
            optimizer=OPTIMIZERS.partial(training.optimizer),
            scheduler=None if training.scheduler is None else SCHEDULERS.partial(training.scheduler),
            kl_warmup=training.kl_warmup,
            clip_norm=training.clip_norm,
            patience=training.patience,
            watch=training.watch,
            transform=setup.splits.transform,
            seed=training.seed,
            device=training.device,
            compile=training.compile,
            precision=training.precision,
            checkpoint=directory.checkpoint,
            resume=resume,
        )
    except KeyboardInterrupt as interruption:
        _go_on(directory, f"{interruption}\n")


def _score(directory: Run, trained: Trained) -> None:
    names = ("device", "compile", "precision", "num_particles", "audit")
    how: dict[str, Any] = {name: trained.config[name] for name in names}
    try:
        score(directory, trained, METHODS.build(trained.config.scoring.method), **how)
    except KeyboardInterrupt:
        _go_on(directory, "Interrupted; the model is kept. ")


def _go_on(directory: Run, what: str) -> NoReturn:
    raise KeyboardInterrupt(f"{what}Go on with: pyro-vae train --resume {directory.path}") from None


def _start_at_data(model: Any, train: tuple[Tensor, ...]) -> None:
    """Start at some of the training data: fewer where each has many features, such as 256 levels of each pixel."""
    most = max(START_VALUES // model.likelihood.num_features, 100)
    start_at_data(model, tuple(arg[: min(START_DATA, most)] for arg in train))


def _check_same_settings(directory: Run, config: Config) -> None:
    """Refuse to resume with other programs or another way to train them, naming the option that asks for it."""
    before = directory.config()
    for name in KEPT:
        if not _same(name, before[name], config[name]):
            option = f"--{name.replace('_', '-')}"
            shown, other = (_shown(name, settings[name]) for settings in (before, config))
            raise ValueError(
                f"Expected {option} as {directory.path} was trained with, {shown}; got {other}. Resume without "
                f"{option}, or train anew."
            )


def _same(name: str, before: Any, now: Any) -> bool:
    """Say whether a setting is what it was; a part that an old config leaves to the data is."""
    if name not in KEPT_PARTS:
        return before == now
    return before is None or REGISTRIES[name].same(before, now)


def _shown(name: str, value: Any) -> Any:
    """Return a setting as a message shows it: a part by its name and what is not at its default."""
    return f"{value.class_path}: {REGISTRIES[name].describe(value)}" if name in KEPT_PARTS else value


def _check_epochs(directory: Run, epochs: int) -> None:
    """Refuse to resume towards fewer epochs than there are, which would make the config untrue."""
    done = read_checkpoint(directory.checkpoint)["epoch"]
    if epochs < done:
        raise ValueError(f"{directory.path} holds {done} epochs already. Give --epochs {done} or more, or train anew.")


def _checked_training_data(setup: Setup, model: nn.Module, guide: nn.Module) -> tuple[Tensor, ...]:
    """Refuse settings and data that cannot work while there is still nothing to clean up; return the training data."""
    config, training, splits = setup.config, setup.config.training, setup.splits
    if config.scoring.num_particles is not None:
        check_positive_int(config.scoring.num_particles, "num_particles")
    check_int(config.scoring.audit, "audit", 0, "It is a number of data; 0 is none.")
    METHODS.build(config.scoring.method)
    names = ("epochs", "batch_size", "patience", "kl_warmup", "clip_norm")
    check_settings(splits.train, valid=splits.valid, **{name: config[name] for name in names})
    x, *others = as_args(setup.kind.training_data(splits))
    device = place_programs(model, guide, (x, *others), training.device)
    optimizer = OPTIMIZERS.partial(training.optimizer)([torch.zeros(1, requires_grad=True)])
    if training.scheduler is not None:
        SCHEDULERS.partial(training.scheduler)(optimizer)
    with torch.random.fork_rng(devices=[]):
        train = (x if splits.transform is None else splits.transform(x), *others)
    for name, data in (("train", train), ("valid", setup.data("valid")), ("test", setup.data("test"))):
        check_data(model, data, f"{splits.name} {name}")
    with short_errors():
        check_proposal(model, guide, tuple(arg[: training.batch_size].to(device) for arg in train))
    return train
