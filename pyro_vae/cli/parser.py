"""The commands of the command line with their options, and the parts that a command line names."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import yaml
from jsonargparse import ArgumentParser

from pyro_vae import __version__
from pyro_vae.cli.help import hide_part_help
from pyro_vae.cli.training_options import add_device, add_part, make_parser, train_parser
from pyro_vae.runs.registry import ROOMS, class_path, find_part
from pyro_vae.runs.run import Run


def resolve_parts(argv: list[str]) -> tuple[list[str], dict[str, type]]:
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
    return _without_replaced_parts(argv), classes


def _without_replaced_parts(argv: list[str]) -> list[str]:
    """Take a part that the command line names anew out of the config, lest its old arguments be merged into it."""
    if "--config" not in argv[:-1]:
        return argv
    place = argv.index("--config") + 1
    config = yaml.safe_load(Path(argv[place]).read_text())
    kept = {name: value for name, value in config.items() if f"--{name}" not in argv or name not in ROOMS}
    return [*argv[:place], yaml.safe_dump(kept), *argv[place + 1 :]]


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


def build_parsers(classes: dict[str, type]) -> tuple[ArgumentParser, dict[str, ArgumentParser]]:
    """Return the parser of the whole command line, and those of its commands by name."""
    parser = make_parser(
        "Variational autoencoders as Pyro programs: train one, estimate log p(x) with its uncertainty.",
        prog="pyro-vae",
        version=__version__,
    )
    commands = {
        "train": train_parser(classes),
        "evaluate": _evaluate_parser(classes),
        "compare": _compare_parser(),
        "report": _report_parser(),
        "sample": _sample_parser(),
        "impute": _impute_parser(),
        "parts": _parts_parser(),
    }
    subcommands = parser.add_subcommands(title="commands", description="pyro-vae COMMAND --help says more.")
    for name, command in commands.items():
        subcommands.add_subcommand(name, command, help=(command.description or "").split(".")[0])
    return parser, commands


def _evaluate_parser(classes: dict[str, type]) -> ArgumentParser:
    parser = make_parser(
        "Estimate log p(x) of a trained run again, by another method or with another K, split or seed. Results go "
        "to a folder of their own in the run directory; one that was interrupted goes on where it stopped.",
    )
    parser.add_argument("run", type=str, help="run directory")
    add_part(parser, "method", classes)
    parser.add_argument(
        "--num-particles",
        type=int | None,
        default=None,
        help="importance samples per datum K: 5000 if absent, 16 chains for AIS",
    )
    parser.add_argument("--split", type=str, default="test", help="which data to score: test, valid or train")
    parser.add_argument("--chunk-size", type=int, default=10_000, help="(datum, particle) pairs in memory at once")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draws")
    add_device(parser, "the weights")
    parser.add_argument("--data-root", type=str | None, default=None, help="folder of data sets, if it has moved")
    hide_part_help(parser)
    return parser


def _compare_parser() -> ArgumentParser:
    parser = make_parser("Rank trained runs by log p(x) of the same data, with paired differences and their errors.")
    parser.add_argument("runs", type=str, nargs="+", help="run directories, or evaluation folders inside them")
    parser.add_argument("--out", type=str | None, default=None, help="write OUT.csv and the picture OUT.png too")
    return parser


def _report_parser() -> ArgumentParser:
    parser = make_parser(
        "Judge guide and model of a trained run by all diagnostics, and write its report anew with them. log p(x) is "
        "taken as it was estimated.",
    )
    parser.add_argument("run", type=str, help="run directory")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draws")
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda, ...")
    parser.add_argument("--data-root", type=str | None, default=None, help="folder of data sets, if it has moved")
    return parser


def _sample_parser() -> ArgumentParser:
    parser = make_parser("Draw from p(x) of a trained run, as numbers and picture.")
    parser.add_argument("run", type=str, help="run directory")
    parser.add_argument(
        "--label",
        type=float,
        nargs="*",
        default=None,
        help="draw from p(x|y) at these labels, in turn; levels of a column by their numbers, from 0 in the order that "
        "training printed (default: those of training data drawn at random)",
    )
    parser.add_argument("--num-samples", type=int, default=64, help="number of draws")
    parser.add_argument("--mean", action="store_true", help="the mean of p(x|z) for each z, instead of a draw of x")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draws")
    parser.add_argument(
        "--out",
        type=str | None,
        default=None,
        help="files OUT.npy, of a table OUT.csv, and OUT.png; RUN/samples if absent",
    )
    parser.add_argument("--data-root", type=str | None, default=None, help="folder of data sets, if it has moved")
    return parser


def _impute_parser() -> ArgumentParser:
    parser = make_parser(
        "Draw what is missing of a data file from p(x_mis | x_obs) of a trained run, several times. Tables are written "
        "one below the other, with the number of the draw in their first column."
    )
    parser.add_argument("run", type=str, help="run directory, of a run with missing entries")
    parser.add_argument("--data", type=str | None, default=None, help=".csv or .npy file; the run's own if absent")
    parser.add_argument("--out", type=str | None, default=None, help="file to write; RUN/imputed.csv or .npy if absent")
    parser.add_argument("--num-draws", type=int, default=5, help="draws of each missing entry M")
    parser.add_argument("--num-particles", type=int, default=1000, help="importance samples per datum K")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draws")
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda, ...")
    parser.add_argument("--data-root", type=str | None, default=None, help="folder of data sets, if it has moved")
    return parser


def _parts_parser() -> ArgumentParser:
    parser = make_parser("List what can be plugged in, or show one part's formula and arguments.")
    parser.add_argument(
        "name",
        type=str,
        nargs="?",
        help="a part, such as IWAE; a class of yours as package.module.Class, or its module",
    )
    return parser
