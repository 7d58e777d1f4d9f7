"""The options of every command, and the parts that they name."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import pyro.infer
import yaml
from jsonargparse import ArgumentParser
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from pyro_vae import __version__
from pyro_vae._help import ShortHelp, hide_part_help
from pyro_vae.catalogue import ROOMS, class_path, find_part
from pyro_vae.materials import ACTIVATIONS, LATENT_DIM, NETWORKS
from pyro_vae.models.likelihoods import Mixed
from pyro_vae.models.networks import NetworkFactory
from pyro_vae.pairs import VAE
from pyro_vae.runs import Run

DEFAULTS = {
    "model": "VAE",
    "prior": "StandardNormal",
    "guide": "DiagonalNormal",
    "encoder": "mlp",
    "decoder": "mlp",
    "likelihood": None,
    "method": "IW",
}
FILLED_IN = {"dim", "event_shape", "data", "guide"}
"""Arguments of parts that the latent dimension and the data determine."""
NETWORK_FILLED_IN = {"in_shape", "out_features", "image_shape"}
WHAT = {
    "model": "kind of model: VAE, HierarchicalVAE, ConditionalVAE or SemiSupervisedVAE",
    "prior": "prior p(z)",
    "likelihood": "likelihood p(x|z)",
    "guide": "family of the guide q(z|x)",
    "encoder": "network of the guide: mlp, gated_mlp or conv",
    "decoder": "network of the model: mlp, gated_mlp or deconv",
    "objective": "what training maximises",
    "method": "how log p(x) is estimated",
}
PARTS_HELP = (
    "PART is a name that `pyro-vae parts` lists, or a class of yours as package.module.Class. Its arguments are "
    "options too: --prior Mixture --prior.num_components 10. `pyro-vae parts PART` shows what it is and takes."
)


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


def _parser(description: str, **settings: Any) -> ArgumentParser:
    return ArgumentParser(
        description=description, exit_on_error=False, allow_abbrev=False, formatter_class=ShortHelp, **settings
    )


def build_parsers(classes: dict[str, type]) -> tuple[ArgumentParser, dict[str, ArgumentParser]]:
    """Return the parser of the whole command line, and those of its commands by name."""
    parser = _parser(
        "Variational autoencoders as Pyro programs: train one, estimate log p(x) with its uncertainty.",
        prog="pyro-vae",
        version=__version__,
    )
    commands = {
        "train": _train_parser(classes),
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


def _train_parser(classes: dict[str, type]) -> ArgumentParser:
    parser = _parser(
        "Train on a data set, estimate log p(x) of its test split, and write a run directory.",
        usage="pyro-vae train [--data DATA] [--prior PART] [--likelihood PART] [--guide PART] [options]",
    )
    parser.add_argument("--config", action="config", help="a config.yaml, such as one from a run directory")
    data = parser.add_argument_group("data")
    data.add_argument("--data", default="digits", help="a name (digits, mnist, ...) or a .npy, .npz or .csv file")
    data.add_argument("--data-root", type=str | None, default=None, help="folder of downloaded data sets")
    data.add_argument(
        "--binarize",
        type=str | None,
        default=None,
        help="how grey levels become binary: static (drawn once), dynamic (anew at each use), threshold (at 1/2)",
    )
    data.add_argument(
        "--schema",
        type=dict[str, Any] | str | None,
        default=None,
        help="likelihoods of a .csv table's columns, '{age: Normal, dose: {likelihood: StudentT, df: 5}}', or "
        "a YAML file with them; null leaves a column out, and the values of other columns choose theirs",
    )
    data.add_argument(
        "--missing",
        type=bool | None,
        metavar="{true,false}",
        default=None,
        help="whether NaN is a missing entry, left out of the likelihood (default: empty cells of a .csv file are)",
    )
    data.add_argument("--data-seed", type=int, default=0, help="seed of splits and binarisation")

    parts = parser.add_argument_group("model and guide", PARTS_HELP)
    for kind in ("model", "prior", "likelihood", "guide"):
        _add_part(parts, kind, classes)
    parts.add_argument(
        "--latent-dim", type=int | None, default=None, help=f"latent dimension D (default: {LATENT_DIM})"
    )

    nets = parser.add_argument_group("networks", "A class of yours is called with in_shape and out_features.")
    for kind in NETWORKS:
        _add_part(nets, kind, classes)
    nets.add_argument(
        "--hidden",
        type=int,
        nargs="*",
        default=None,
        help="widths of the hidden layers of both networks (default: 200 200; 300 300 for gated_mlp)",
    )
    nets.add_argument(
        "--activation",
        type=str | None,
        default=None,
        help=f"nonlinearity of both networks: {', '.join(ACTIVATIONS)} (default: tanh, relu for convolutions)",
    )
    nets.add_argument(
        "--start-at-data", type=bool, default=True, help="set the decoder's first output bias to the data's marginal"
    )

    training = parser.add_argument_group("training")
    _add_part(training, "objective", classes)
    training.add_argument("--epochs", type=int, default=200, help="passes over the data")
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
    training.add_argument(
        "--compile",
        type=Literal["auto"] | bool,
        default="auto",
        metavar="{auto,true,false}",
        help="run training as one compiled graph: auto for long runs alone",
    )

    run = parser.add_argument_group("evaluation and run directory")
    run.add_argument("--num-particles", type=int, default=5000, help="importance samples per datum K, for log p(x)")
    run.add_argument("--out", type=str | None, default=None, help="run directory; runs/DATA-NNN if absent")
    run.add_argument("--overwrite", action="store_true", help="replace the run that --out holds")
    run.add_argument("--resume", type=str | None, default=None, help="go on with the run in this directory")
    hide_part_help(parser)
    return parser


def _add_part(group: Any, kind: str, classes: dict[str, type]) -> None:
    base = pyro.infer.ELBO if kind == "objective" else ROOMS[kind][1]
    given = classes.get(kind, base)
    bases = (base,) if issubclass(given, base) else (base, given)
    name, arguments = _default_objective(classes) if kind == "objective" else (DEFAULTS[kind], {})
    default = {"class_path": class_path(find_part(kind, name)), "init_args": arguments} if name else None
    group.add_subclass_arguments(
        bases,
        kind,
        as_group=False,
        default=default,
        required=False,
        instantiate=False,
        skip=_skipped(kind, given),
        metavar="PART",
        help=f"{WHAT[kind]} (default: {name or 'what the values of the data call for'})",
    )


def _default_objective(classes: dict[str, type]) -> tuple[str, dict[str, Any]]:
    """Return the objective of the kind of model; without its arguments where another objective may take its place."""
    model: Any = classes.get("model", VAE)
    name, arguments = model.objective
    return name, {} if "objective" in classes else arguments


def _skipped(kind: str, part: type) -> set[str]:
    """Return the arguments of a part that are no options of their own."""
    if kind in NETWORKS:
        return NETWORK_FILLED_IN | ({"activation"} if issubclass(part, NetworkFactory) else set())
    return set() if kind == "model" else FILLED_IN | ({"columns"} if part is Mixed else set())


def _evaluate_parser(classes: dict[str, type]) -> ArgumentParser:
    parser = _parser(
        "Estimate log p(x) of a trained run again, by another method or with another K, split or seed. Results go "
        "to a folder of their own in the run directory; one that was interrupted goes on where it stopped.",
    )
    parser.add_argument("run", type=str, help="run directory")
    _add_part(parser, "method", classes)
    parser.add_argument(
        "--num-particles",
        type=int | None,
        default=None,
        help="importance samples per datum K: 5000 if absent, 16 chains for AIS",
    )
    parser.add_argument("--split", type=str, default="test", help="which data to score: test, valid or train")
    parser.add_argument("--chunk-size", type=int, default=10_000, help="(datum, particle) pairs in memory at once")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draws")
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda, ...")
    parser.add_argument(
        "--compile",
        type=Literal["auto"] | bool,
        default="auto",
        metavar="{auto,true,false}",
        help="run the weights as one compiled graph: auto for long runs alone",
    )
    parser.add_argument("--data-root", type=str | None, default=None, help="folder of data sets, if it has moved")
    hide_part_help(parser)
    return parser


def _compare_parser() -> ArgumentParser:
    parser = _parser("Rank trained runs by log p(x) of the same data, with paired differences and their errors.")
    parser.add_argument("runs", type=str, nargs="+", help="run directories, or evaluation folders inside them")
    parser.add_argument("--out", type=str | None, default=None, help="write OUT.csv and the picture OUT.png too")
    return parser


def _report_parser() -> ArgumentParser:
    parser = _parser(
        "Judge guide and model of a trained run by all diagnostics, and write its report anew with them. log p(x) is "
        "taken as it was estimated.",
    )
    parser.add_argument("run", type=str, help="run directory")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draws")
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda, ...")
    parser.add_argument("--data-root", type=str | None, default=None, help="folder of data sets, if it has moved")
    return parser


def _sample_parser() -> ArgumentParser:
    parser = _parser("Draw from p(x) of a trained run, as numbers and picture.")
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
    parser = _parser(
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
    parser = _parser("List what can be plugged in, or show one part's formula and arguments.")
    parser.add_argument(
        "name",
        type=str,
        nargs="?",
        help="a part, such as IWAE; a class of yours as package.module.Class, or its module",
    )
    return parser
