"""The command ``pyro-vae``: train, evaluate, compare, report, sample, impute, parts."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentError
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jsonargparse import ArgumentParser, Namespace
from torch import Tensor, nn

from pyro_vae.cli.errors import explain, in_options
from pyro_vae.cli.evaluate import Trained, compare_runs, evaluate_run, report_run, score
from pyro_vae.cli.impute import impute_run
from pyro_vae.cli.parser import build_parsers, resolve_parts
from pyro_vae.core.checks import check_positive_int
from pyro_vae.core.files import atomic_path
from pyro_vae.data.splits import Splits
from pyro_vae.data.tables import read_schema
from pyro_vae.inference import fit
from pyro_vae.inference.programs.call import as_args, check_data, place_programs, short_errors
from pyro_vae.inference.programs.proposals import check_proposal
from pyro_vae.inference.training.checkpoints import read_checkpoint
from pyro_vae.inference.training.fit import check_settings
from pyro_vae.models import start_at_data
from pyro_vae.report.pictures import prior_predictive
from pyro_vae.runs import building, reading
from pyro_vae.runs import run as runs
from pyro_vae.runs.building import Config
from pyro_vae.runs.kinds import Pair
from pyro_vae.runs.registry import build_part, describe_part, list_parts
from pyro_vae.runs.run import Run

START_DATA = 5000
"""Training data that the decoder's first bias is taken from, at most."""
START_VALUES = 10**8
"""Features of the likelihood that this takes for all of them together, at most, if that leaves 100 data."""


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit status.

    Users' mistakes end in one line on standard error and status 2, an interruption in status 130.
    """
    argv = sys.argv[1:] if argv is None else argv
    sys.path.insert(0, str(Path.cwd()))  # parts of the user's own are found in the working directory
    try:
        argv, classes = resolve_parts(argv or ["--help"])
        parser, commands = build_parsers(classes)
        config = _parse(parser, commands, argv, classes)
        _COMMANDS[config.subcommand](commands[config.subcommand], config[config.subcommand])
    except (ValueError, FloatingPointError, ArgumentError) as error:
        print(f"pyro-vae: error: {in_options(' '.join(str(error).split()))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interruption:
        print(f"\n{interruption or 'Interrupted.'}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read the output, such as `head`, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    finally:
        sys.path.pop(0)
    return 0


def _parse(
    parser: ArgumentParser, commands: dict[str, ArgumentParser], argv: list[str], classes: dict[str, type]
) -> Namespace:
    try:
        return parser.parse_args(argv)
    except ArgumentError as error:
        raise ValueError(explain(str(error), commands.get(argv[0], parser), classes)) from error


def _train(parser: ArgumentParser, options: Namespace) -> None:
    config = _as_config(options)
    splits = building.load_splits(config)
    config["likelihood"] = config["likelihood"] or building.choose_likelihood(splits)
    config |= reading.as_read(config, splits)
    pair = building.pair_of(config)
    model, guide = building.build(config, splits)
    objective = build_part("objective", config["objective"])
    functions = parser.instantiate(options)
    train = _check_before_writing(functions, model, guide, splits, pair)
    if options.start_at_data and not options.resume:
        _start_at_data(model, train)

    run = Run(options.resume or options.out or runs.next_path(config["data"]))
    if options.resume:
        run.check_fingerprint(splits)
        _check_same_settings(run, config)
        _check_epochs(run, options.epochs)
        run.write_config(config)
    else:
        run.create(config, options.overwrite)
        run.write_fingerprint(splits)
    print("\n".join([splits.protocol, *reading.notes(config, splits), f"run directory: {run.path}"]))
    try:
        result = fit(
            model,
            guide,
            pair.training_data(splits),
            objective=objective,
            epochs=options.epochs,
            batch_size=options.batch_size,
            valid=pair.data(splits, "valid"),
            optimizer=functions.optimizer,
            scheduler=functions.scheduler,
            kl_warmup=options.kl_warmup,
            clip_norm=options.clip_norm,
            patience=options.patience,
            transform=splits.transform,
            seed=options.seed,
            device=options.device,
            compile=options.compile,
            precision=options.precision,
            checkpoint=run.checkpoint,
            resume=bool(options.resume),
        )
    except KeyboardInterrupt as interruption:
        raise KeyboardInterrupt(f"{interruption}\nGo on with: pyro-vae train --resume {run.path}") from None
    run.write_metrics(result.history)
    if result.execution != "eager":
        print(f"training {result.execution}")
    try:
        trained = Trained(config, splits, model, guide, result.history)
        how = {name: options[name] for name in ("device", "compile", "precision")}
        score(run, trained, options.num_particles, **how)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"Interrupted; the model is kept. Go on with: pyro-vae train --resume {run.path}"
        ) from None


def _start_at_data(model: Any, train: tuple[Tensor, ...]) -> None:
    """Start at some of the training data: fewer where each has many features, such as 256 levels of each pixel."""
    most = max(START_VALUES // model.likelihood.num_features, 100)
    start_at_data(model, tuple(arg[: min(START_DATA, most)] for arg in train))


def _check_same_settings(run: Run, config: Config) -> None:
    """Refuse to resume with other programs or another way to train them, naming the option that asks for it."""
    before = run.config()
    parts = ("model", "prior", "likelihood", "guide", "latent_dim", "encoder", "decoder", "hidden", "activation")
    for name in (*parts, "objective", "batch_size", "precision"):
        if name in before and before[name] != config[name]:
            option = f"--{name.replace('_', '-')}"
            raise ValueError(
                f"Expected {option} as {run.path} was trained with, {before[name]}; got {config[name]}. Resume without "
                f"{option}, or train anew."
            )


def _check_epochs(run: Run, epochs: int) -> None:
    """Refuse to resume towards fewer epochs than there are, which would make the config untrue."""
    done = read_checkpoint(run.checkpoint)["epoch"]
    if epochs < done:
        raise ValueError(f"{run.path} holds {done} epochs already. Give --epochs {done} or more, or train anew.")


def _check_before_writing(
    options: Namespace, model: nn.Module, guide: nn.Module, splits: Splits, pair: Pair
) -> tuple[Tensor, ...]:
    """Refuse settings and data that cannot work while there is still nothing to clean up; return the training data."""
    check_positive_int(options.num_particles, "num_particles")
    names = ("epochs", "batch_size", "patience", "kl_warmup", "clip_norm")
    check_settings(splits.train, valid=splits.valid, **{name: options[name] for name in names})
    x, *others = as_args(pair.training_data(splits))
    device = place_programs(model, guide, (x, *others), options.device)
    optimizer = options.optimizer([torch.zeros(1, requires_grad=True)])
    if options.scheduler is not None:
        options.scheduler(optimizer)
    with torch.random.fork_rng(devices=[]):
        train = (x if splits.transform is None else splits.transform(x), *others)
    scored = ((name, pair.data(splits, name)) for name in ("valid", "test"))
    for name, data in (("train", train), *scored):
        check_data(model, data, f"{splits.name} {name}")
    with short_errors():
        check_proposal(model, guide, tuple(arg[: options.batch_size].to(device) for arg in train))
    return train


def _sample(parser: ArgumentParser, options: Namespace) -> None:
    from pyro_vae.report.pictures import image_grid

    run = Run(options.run)
    config, splits, model, _, _ = run.load(options.data_root)
    check_positive_int(options.num_samples, "num_samples")
    x = draw(model, building.pair_of(config), splits, options)
    stem = Path(options.out) if options.out else run.path / "samples"
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
def draw(model: nn.Module, pair: Pair, splits: Splits, options: Namespace) -> Tensor:
    """Draw x ~ p(x), or the means of p(x|z) at z ~ p(z), shape (num_samples, *event).

    A model of x given y takes the labels in turn or, where none are given, those of training data drawn at random.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        y = pair.y(splits, "train")
        if y is not None and not options.label:
            y = y[torch.randint(len(y), (options.num_samples,))]
        if options.label:
            y = pair.encode_labels(splits, options.label)[torch.arange(options.num_samples) % len(options.label)]
        p_x = prior_predictive(model if y is None else pair.given_label(model), options.num_samples, y)
        return p_x.mean if options.mean else p_x.sample()


def _parts(parser: ArgumentParser, options: Namespace) -> None:
    print(describe_part(options.name) if options.name else list_parts())


def _as_config(options: Namespace) -> Config:
    """Return what the run directory records: all settings but those of the directory itself."""
    config = options.as_dict()
    for name in ("config", "out", "overwrite", "resume"):
        config.pop(name, None)
    config["schema"] = read_schema(config["schema"])
    for name in ("data", "data_root"):
        if config[name] and Path(config[name]).exists():
            config[name] = str(Path(config[name]).resolve())
    return config


_COMMANDS = {
    "train": _train,
    "evaluate": lambda parser, options: evaluate_run(options),
    "compare": lambda parser, options: compare_runs(options.runs, options.out),
    "report": lambda parser, options: report_run(options),
    "sample": _sample,
    "impute": lambda parser, options: impute_run(options),
    "parts": _parts,
}
