"""The command ``pyro-vae``: train, evaluate, sample, parts."""

from __future__ import annotations

import sys
from argparse import ArgumentError
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyro.infer
import torch
import yaml
from jsonargparse import ArgumentParser, Namespace
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from pyro_vae import __version__, runs
from pyro_vae._files import atomic_path
from pyro_vae.catalogue import ROOMS, build_part, class_path, describe_part, find_part, list_parts
from pyro_vae.data import Splits
from pyro_vae.inference import AmortizedGuide, evidence, fit
from pyro_vae.models import VAE
from pyro_vae.runs import Config, Run

DEFAULTS = {"prior": "StandardNormal", "guide": "DiagonalNormal", "objective": "Trace_ELBO", "likelihood": None}
FILLED_IN = {"dim", "event_shape"}
"""Arguments of parts that the latent dimension and the data determine."""


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit status.

    Users' mistakes end in one line on standard error and status 2, an interruption in status 130.
    """
    argv = sys.argv[1:] if argv is None else argv
    sys.path.insert(0, str(Path.cwd()))  # parts of the user's own are found in the working directory
    try:
        argv, classes = _resolve(argv or ["--help"])
        parser, commands = _parsers(classes)
        config = parser.parse_args(argv)
        _COMMANDS[config.subcommand](commands[config.subcommand], config[config.subcommand])
    except (ValueError, FloatingPointError, ArgumentError) as error:
        print(f"pyro-vae: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interruption:
        print(f"\n{interruption or 'Interrupted.'}", file=sys.stderr)
        return 130
    finally:
        sys.path.pop(0)
    return 0


def _resolve(argv: list[str]) -> tuple[list[str], dict[str, type]]:
    """Replace names of parts by class paths, and --resume DIR by that run's config; also return the classes.

    Raises:
        ValueError: for a part that there is not, naming the nearest, or a directory without a run.
    """
    argv = [piece for token in argv for piece in (token.split("=", 1) if token.startswith("--") else [token])]
    classes: dict[str, type] = {}
    for option, value in pairwise(argv):
        if option == "--config":
            classes |= _parts_of_config(Path(value))
        elif option == "--resume":
            classes |= _parts_of_config(Run(value).config_file)
    for i, (option, value) in list(enumerate(pairwise(argv))):
        kind = option.removeprefix("--")
        if kind in ROOMS and not value.startswith("-"):
            classes[kind] = find_part(kind, value)
            argv[i + 1] = class_path(classes[kind])
    if "--resume" in argv[:-1]:
        run = Run(argv[argv.index("--resume") + 1])
        run.config()
        argv[1:1] = ["--config", str(run.config_file)]
    return argv, classes


def _parts_of_config(path: Path) -> dict[str, type]:
    """Return the classes of the parts in a config file, so that those of the user's own are known."""
    try:
        config = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ValueError(f"Cannot read the config {path}: {' '.join(str(error).split())}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} is no config of pyro-vae.")
    parts = {kind: config[kind] for kind in ROOMS if config.get(kind)}
    names = {kind: part["class_path"] if isinstance(part, dict) else part for kind, part in parts.items()}
    return {kind: find_part(kind, name) for kind, name in names.items()}


def _parsers(classes: dict[str, type]) -> tuple[ArgumentParser, dict[str, ArgumentParser]]:
    parser = ArgumentParser(
        exit_on_error=False,
        prog="pyro-vae",
        description="Variational autoencoders as Pyro programs: train one, estimate log p(x) with its uncertainty.",
        version=__version__,
    )
    commands = {
        "train": _train_parser(classes),
        "evaluate": _evaluate_parser(),
        "sample": _sample_parser(),
        "parts": _parts_parser(),
    }
    subcommands = parser.add_subcommands(title="commands", description="pyro-vae COMMAND --help says more.")
    for name, command in commands.items():
        subcommands.add_subcommand(name, command, help=(command.description or "").split(".")[0])
    return parser, commands


def _train_parser(classes: dict[str, type]) -> ArgumentParser:
    parser = ArgumentParser(
        exit_on_error=False,
        description="Train on a data set, estimate log p(x) of its test split, and write a run directory.",
    )
    parser.add_argument("--config", action="config", help="a config.yaml, such as one from a run directory")
    data = parser.add_argument_group("data")
    data.add_argument("--data", default="digits", help="a name (digits, mnist, ...) or a .npy, .npz or .csv file")
    data.add_argument("--data-root", type=str | None, default=None, help="folder of downloaded data sets")
    data.add_argument(
        "--binarize",
        type=Literal["static", "dynamic", "threshold"] | None,
        default=None,
        help="how grey levels become binary: drawn once, drawn anew at each use, or cut at 1/2",
    )
    data.add_argument("--data-seed", type=int, default=0, help="seed of splits and binarisation")

    parts = parser.add_argument_group("model and guide (pyro-vae parts lists the names)")
    for kind, (_, base) in ROOMS.items():
        base = pyro.infer.ELBO if kind == "objective" else base
        given = classes.get(kind, base)
        _add_part(parser, kind, (base,) if issubclass(given, base) else (given,))
    parts.add_argument("--latent-dim", type=int, default=20, help="latent dimension D")
    parts.add_argument("--hidden", type=int, nargs="*", default=[200, 200], help="widths of both networks' layers")
    parts.add_argument(
        "--activation", type=Literal[tuple(runs.ACTIVATIONS)], default="tanh", help="nonlinearity of both networks"
    )

    training = parser.add_argument_group("training")
    training.add_argument("--epochs", type=int, default=100, help="passes over the data")
    training.add_argument("--batch-size", type=int, default=100, help="data in a minibatch")
    training.add_argument(
        "--optimizer",
        type=Callable[[Iterable], Optimizer],
        default={"class_path": "torch.optim.Adam", "init_args": {"lr": 1e-3}},
        help="a torch optimizer: --optimizer Adam --optimizer.lr 1e-3",
    )
    training.add_argument(
        "--scheduler",
        type=Callable[[Optimizer], LRScheduler] | None,
        default=None,
        help="a torch learning-rate schedule, stepped each epoch: --scheduler ExponentialLR --scheduler.gamma 0.99",
    )
    training.add_argument("--kl-warmup", type=int, default=0, help="epochs over which the KL term's weight rises to 1")
    training.add_argument("--clip-norm", type=float | None, default=None, help="largest norm of the gradient")
    training.add_argument("--patience", type=int | None, default=None, help="stop after so many epochs without a gain")
    training.add_argument("--seed", type=int, default=0, help="seed of initial values and training")
    training.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda, ...")

    run = parser.add_argument_group("evaluation and run directory")
    run.add_argument("--num-particles", type=int, default=5000, help="importance samples per datum K, for log p(x)")
    run.add_argument("--out", type=str | None, default=None, help="run directory; runs/DATA-NNN if absent")
    run.add_argument("--overwrite", action="store_true", help="replace the run that --out holds")
    run.add_argument("--resume", type=str | None, default=None, help="go on with the run in this directory")
    return parser


def _add_part(parser: ArgumentParser, kind: str, bases: tuple[type, ...]) -> None:
    name = DEFAULTS[kind]
    default = {"class_path": class_path(find_part(kind, name))} if name else None
    parser.add_subclass_arguments(
        bases,
        kind,
        default=default,
        required=False,
        instantiate=False,
        skip=FILLED_IN,
        help=f"{kind}: a name or package.module.Class, its arguments as --{kind}.NAME VALUE (default: "
        + (f"{name})" if name else "what the data's values call for)"),
    )


def _evaluate_parser() -> ArgumentParser:
    parser = ArgumentParser(
        exit_on_error=False,
        description="Estimate log p(x) of a trained run again, with another K, split or seed, and renew its report.",
    )
    parser.add_argument("run", type=str, help="run directory")
    parser.add_argument("--num-particles", type=int, default=5000, help="importance samples per datum K")
    parser.add_argument("--split", type=Literal["test", "valid", "train"], default="test", help="which data to score")
    parser.add_argument("--chunk-size", type=int, default=10_000, help="(datum, particle) pairs in memory at once")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draws")
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda, ...")
    parser.add_argument("--data-root", type=str | None, default=None, help="folder of data sets, if it has moved")
    return parser


def _sample_parser() -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False, description="Draw from p(x) of a trained run, as numbers and picture.")
    parser.add_argument("run", type=str, help="run directory")
    parser.add_argument("--num-samples", type=int, default=64, help="number of draws")
    parser.add_argument("--mean", action="store_true", help="the mean of p(x|z) for each z, instead of a draw of x")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draws")
    parser.add_argument("--out", type=str | None, default=None, help="files OUT.npy and OUT.png; RUN/samples if absent")
    parser.add_argument("--data-root", type=str | None, default=None, help="folder of data sets, if it has moved")
    return parser


def _parts_parser() -> ArgumentParser:
    parser = ArgumentParser(
        exit_on_error=False, description="List what can be plugged in, or show one part's formula and arguments."
    )
    parser.add_argument("name", type=str, nargs="?", help="a part, such as IWAE")
    return parser


def _train(parser: ArgumentParser, options: Namespace) -> None:
    config = _as_config(options)
    splits = runs.load_splits(config)
    config["likelihood"] = config["likelihood"] or runs.choose_likelihood(splits)
    model, guide = runs.build(config, splits)
    objective = build_part("objective", config["objective"])
    _check_splits(model, splits)

    run = Run(options.resume or options.out or runs.next_path(config["data"]))
    if options.resume:
        run.write_config(config)
    else:
        run.create(config, options.overwrite)
    print(f"{splits.protocol}\nrun directory: {run.path}")
    functions = parser.instantiate_classes(options)
    try:
        result = fit(
            model,
            guide,
            splits.train,
            objective=objective,
            epochs=options.epochs,
            batch_size=options.batch_size,
            valid=splits.valid,
            optimizer=functions.optimizer,
            scheduler=functions.scheduler,
            kl_warmup=options.kl_warmup,
            clip_norm=options.clip_norm,
            patience=options.patience,
            transform=splits.transform,
            seed=options.seed,
            device=options.device,
            checkpoint=run.checkpoint,
            resume=bool(options.resume),
        )
    except KeyboardInterrupt as interruption:
        raise KeyboardInterrupt(f"{interruption}\nGo on with: pyro-vae train --resume {run.path}") from None
    run.write_metrics(result.history)
    try:
        _evaluate(run, config, splits, model, guide, result.history, options.num_particles, device=options.device)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"Interrupted; the model is kept. Go on with: pyro-vae evaluate {run.path}") from None


def _check_splits(model: VAE, splits: Splits) -> None:
    """Refuse data that the likelihood cannot have produced before anything is written."""
    with torch.random.fork_rng(devices=[]):
        train = splits.train if splits.transform is None else splits.transform(splits.train)
    for name, x in (("train", train), ("valid", splits.valid), ("test", splits.test)):
        model.check_data(x, name=f"{splits.name} {name}")


def _evaluate_run(parser: ArgumentParser, options: Namespace) -> None:
    run = Run(options.run)
    config, splits, model, guide, history = run.load(options.data_root)
    settings = {name: options[name] for name in ("num_particles", "split", "chunk_size", "seed", "device")}
    _evaluate(run, config, splits, model, guide, history, **settings)


def _evaluate(
    run: Run,
    config: Config,
    splits: Splits,
    model: VAE,
    guide: AmortizedGuide,
    history: list[dict[str, float]],
    num_particles: int,
    split: str = "test",
    device: str = "auto",
    **settings: Any,
) -> None:
    """Estimate log p(x), write result and report, and print the line that says it."""
    from pyro_vae.report import write_report

    x = getattr(splits, split)
    ev = evidence(model, guide, x, num_particles, device=device, **settings)
    where = str(next(model.parameters()).device)
    facts = runs.facts(config, splits, ev, split, where)
    run.write_result(ev, facts)
    write_report(
        run.report,
        title=f"{splits.name}: {split} log p(x)",
        facts=facts,
        history=history,
        evidence=ev,
        model=model.cpu(),
        guide=guide.cpu(),
        x=x,
        labels=splits.labels and splits.labels[split],
        image_shape=splits.image_shape,
    )
    print(f"report: {run.report}\n{split} {ev}")


def _sample(parser: ArgumentParser, options: Namespace) -> None:
    from pyro_vae.plots import image_grid

    run = Run(options.run)
    _, splits, model, _, _ = run.load(options.data_root)
    x = draw(model, options.num_samples, options.seed, options.mean)
    stem = Path(options.out) if options.out else run.path / "samples"
    array, picture = stem.with_suffix(".npy"), stem.with_suffix(".png")
    with atomic_path(array) as temporary, open(temporary, "wb") as file:
        np.save(file, x.numpy())
    with atomic_path(picture) as temporary:
        image_grid(x, splits.image_shape).savefig(temporary, format="png", dpi=150, bbox_inches="tight")
    print(f"{array}: {tuple(x.shape)}\n{picture}")


@torch.no_grad()
def draw(model: VAE, num_samples: int, seed: int, mean: bool) -> Tensor:
    """Draw x ~ p(x), or the means of p(x|z) at z ~ p(z), shape (num_samples, *event)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return model.decode(model.prior().sample((num_samples,))).mean if mean else model.sample(num_samples)


def _parts(parser: ArgumentParser, options: Namespace) -> None:
    print(describe_part(options.name) if options.name else list_parts())


def _as_config(options: Namespace) -> Config:
    """Return what the run directory records: all settings but those of the directory itself."""
    config = options.as_dict()
    for name in ("config", "out", "overwrite", "resume"):
        config.pop(name, None)
    for name in ("data", "data_root"):
        if config[name] and Path(config[name]).exists():
            config[name] = str(Path(config[name]).resolve())
    return config


_COMMANDS = {"train": _train, "evaluate": _evaluate_run, "sample": _sample, "parts": _parts}
