"""The command evaluate: log p(x) of a trained run again, by another method or with another K, split or seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, Namespace

from pyro_vae.cli.parser import Choices, Classes, add_data_root, add_device, add_part, make_parser
from pyro_vae.core.checks import check_positive_int, check_seed
from pyro_vae.core.registry import Spec
from pyro_vae.data.splits import SPLIT_NAMES
from pyro_vae.inference.scoring.estimates import Evidence
from pyro_vae.inference.scoring.evidence import evidence
from pyro_vae.runs.building import facts
from pyro_vae.runs.loading import bits_per_dimension
from pyro_vae.runs.registry import METHODS
from pyro_vae.runs.run import Run, Trained

if TYPE_CHECKING:
    from pyro_vae.report.page import Section


def defaults(classes: Classes) -> dict[str, Spec | None]:
    """Return the method where none is named."""
    return {"method": Spec("IW")}


def make(choices: Choices) -> ArgumentParser:
    """Return the parser of the command."""
    parser = make_parser(
        "Estimate log p(x) of a trained run again, by another method or with another K, split or seed. Results go "
        "to a folder of their own in the run directory; one that was interrupted goes on where it stopped.",
    )
    parser.add_argument("run", type=str, help="run directory")
    add_part(parser, "method", choices)
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
    folder = directory.evaluation(options.split, spec, num_particles, options.seed)
    settings = {name: options[name] for name in ("split", "chunk_size", "seed", "device", "compile", "precision")}
    try:
        score(folder, trained, num_particles, method=method, **settings)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"Interrupted; the same command goes on from what {folder.path} holds.") from None


def score(
    directory: Run, trained: Trained, num_particles: int, split: str = "test", device: str = "auto", **settings: Any
) -> None:
    """Estimate log p(x), write result and report, and print the line that says it.

    Args:
        directory: where they go.
        trained: the run.
        num_particles: K.
        split: the split that is scored.
        device: "auto", or a torch device.
        settings: further ones of ``evidence``.
    """
    kind, splits = trained.kind, trained.splits
    how: dict[str, Any] = {"device": device, "checkpoint": directory.path, **settings}
    ev = evidence(trained.model, trained.guide, kind.data(splits, split), num_particles, **how)
    cited = facts(trained.config, splits, ev, split, str(next(trained.model.parameters()).device))
    bits = bits_per_dimension(trained.config.parts.likelihood, splits, ev)
    cited |= {"bits per dimension": bits} if bits else {}
    directory.write_result(ev, cited)
    write_page(directory, trained, ev, cited, split)
    remarks = kind.remarks(trained.guide, splits, split)
    remarks += [f"bits per dimension: {bits}"] if bits else []
    print("\n".join([f"report: {directory.report}", *remarks, f"{split} {trained.in_words(ev)}"]))


def write_page(
    directory: Run,
    trained: Trained,
    ev: Evidence,
    cited: Mapping[str, str],
    split: str,
    further: Sequence[Section] = (),
) -> None:
    """Write the report of a result.

    Args:
        directory: where it goes.
        trained: the run.
        ev: the result.
        cited: the facts to cite it by.
        split: the split that was scored.
        further: sections to put at its end.
    """
    from pyro_vae.report.report import Scored, write_report

    splits = trained.splits
    scored = Scored(
        ev,
        getattr(splits, split),
        y=trained.kind.y(splits, split),
        labels=splits.labels[split] if splits.labels else None,
        image_shape=splits.image_shape,
        split=split,
    )
    write_report(
        directory.report,
        scored,
        trained.model.cpu(),
        trained.guide.cpu(),
        title=f"{splits.name}: {split} {trained.kind.quantity}",
        facts=cited,
        history=trained.history,
        further=further,
    )
