"""The options of the command train, and those that name a part, its class and its arguments."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal

import pyro.infer
from jsonargparse import ArgumentParser
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from pyro_vae.cli.help import ShortHelp, hide_part_help
from pyro_vae.models.likelihoods import Mixed
from pyro_vae.models.networks import NetworkFactory
from pyro_vae.runs.kinds import VAE
from pyro_vae.runs.materials import ACTIVATIONS, LATENT_DIM, NETWORKS
from pyro_vae.runs.registry import ROOMS, class_path, find_part

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


def add_device(group: Any, what: str) -> None:
    """Add the options that say where and how ``what`` is computed."""
    group.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda, ...")
    group.add_argument(
        "--compile",
        type=Literal["auto"] | bool,
        default="auto",
        metavar="{auto,true,false}",
        help=f"run {what} as one compiled graph: auto for long runs alone",
    )
    group.add_argument(
        "--precision",
        type=Literal["bf16", "tf32"] | None,
        default=None,
        metavar="{bf16,tf32}",
        help="of networks' matrix products, for speed on a GPU; that of the parameters if absent",
    )


def make_parser(description: str, **settings: Any) -> ArgumentParser:
    """Return a parser that raises what is wrong, takes no abbreviations and helps in few words."""
    return ArgumentParser(
        description=description, exit_on_error=False, allow_abbrev=False, formatter_class=ShortHelp, **settings
    )


def train_parser(classes: dict[str, type]) -> ArgumentParser:
    """Return the parser of the command train, for parts of these classes."""
    parser = make_parser(
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
        add_part(parts, kind, classes)
    parts.add_argument(
        "--latent-dim", type=int | None, default=None, help=f"latent dimension D (default: {LATENT_DIM})"
    )

    nets = parser.add_argument_group("networks", "A class of yours is called with in_shape and out_features.")
    for kind in NETWORKS:
        add_part(nets, kind, classes)
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
    add_part(training, "objective", classes)
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
    add_device(training, "training")

    run = parser.add_argument_group("evaluation and run directory")
    run.add_argument("--num-particles", type=int, default=5000, help="importance samples per datum K, for log p(x)")
    run.add_argument("--out", type=str | None, default=None, help="run directory; runs/DATA-NNN if absent")
    run.add_argument("--overwrite", action="store_true", help="replace the run that --out holds")
    run.add_argument("--resume", type=str | None, default=None, help="go on with the run in this directory")
    hide_part_help(parser)
    return parser


def add_part(group: Any, kind: str, classes: dict[str, type]) -> None:
    """Add the option --KIND, which names a part, and one for each argument of the class that is given."""
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
