"""The command evaluate: log p(x) of a trained run again, by another method or with another K, split or seed."""

from __future__ import annotations

import json

from jsonargparse import ArgumentParser, Namespace

from pyro_vae.cli.options import Choices, Classes, add_data_root, add_device, add_part, add_setting, make_parser
from pyro_vae.cli.scoring import score
from pyro_vae.core.checks import check_int, check_positive_int, check_seed
from pyro_vae.core.files import write_text
from pyro_vae.core.registry import Spec
from pyro_vae.data.splits import SPLIT_NAMES
from pyro_vae.inference.scoring.audit import certify
from pyro_vae.inference.scoring.base import Estimator
from pyro_vae.runs.config import ScoringConfig
from pyro_vae.runs.registry import METHODS
from pyro_vae.runs.run import Run, Trained


def defaults(classes: Classes) -> dict[str, Spec | None]:
    """Return the method where none is named."""
    return {"method": Spec("Auto")}


def make(choices: Choices) -> ArgumentParser:
    """Return the parser of the command."""
    parser = make_parser(
        "Estimate log p(x) of a trained run again, by another method or with another K, split or seed. Results go "
        "to a folder of their own in the run directory; one that was interrupted goes on where it stopped.",
    )
    parser.add_argument("run", type=str, help="run directory")
    add_part(parser, "method", choices)
    for name in ("num_particles", "audit"):
        add_setting(parser, ScoringConfig, name)
    parser.add_argument("--split", type=str, default="test", help="which data to score: test, valid or train")
    parser.add_argument("--chunk-size", type=int, default=10_000, help="(datum, particle) pairs in memory at once")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draws")
    parser.add_argument(
        "--certify",
        type=int,
        nargs="?",
        const=50,
        default=0,
        metavar="N",
        help="score N simulated data too, 50 if no number is given, whose log p(x) annealing bounds from both sides",
    )
    add_device(parser, "the weights")
    add_data_root(parser)
    return parser


def run(options: Namespace) -> None:
    """Estimate log p(x) of a trained run anew, in a folder of its own."""
    directory = Run(options.run)
    trained = directory.load(options.data_root)
    if options.split not in SPLIT_NAMES:
        raise ValueError(f"Expected --split to be one of {', '.join(SPLIT_NAMES)}; got {options.split!r}.")
    spec = Spec.of(options.method.as_dict())
    method = METHODS.build(spec)
    num_particles = method.default_particles if options.num_particles is None else options.num_particles
    check_positive_int(num_particles, "num_particles")
    check_positive_int(options.chunk_size, "chunk_size")
    check_seed(options.seed)
    check_int(options.audit, "audit", 0, "It is a number of data; 0 is none.")
    check_int(options.certify, "--certify", 0, "It is the number of simulated data.")
    folder = directory.evaluation(options.split, spec, num_particles, options.seed)
    settings = {
        name: options[name] for name in ("split", "chunk_size", "seed", "device", "compile", "precision", "audit")
    }
    try:
        if options.certify:
            _certify(folder, trained, method, num_particles, options)
        score(folder, trained, method, num_particles, **settings)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"Interrupted; the same command goes on from what {folder.path} holds.") from None


def _certify(folder: Run, trained: Trained, method: Estimator, num_particles: int, options: Namespace) -> None:
    """Score simulated data by the same method, print the bounds beside the estimate, and write them down."""
    how = {name: options[name] for name in ("chunk_size", "seed", "device", "compile")}
    x = trained.setup.data(options.split)
    bracket = certify(trained.model, trained.guide, options.certify, num_particles, method=method, x=x, **how)
    write_text(
        folder.path / "certificate.json", json.dumps(bracket.numbers() | {"unit": "nats per datum"}, indent=2) + "\n"
    )
    print(f"{bracket.bounds}\n{bracket}")
