"""What train, evaluate and report share: log p(x) of a trained run, its result and its report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pyro_vae.inference.scoring.estimates import Evidence
from pyro_vae.inference.scoring.evidence import evidence
from pyro_vae.runs.result import bits_per_dimension, facts_of
from pyro_vae.runs.run import Run, Trained

if TYPE_CHECKING:
    from pyro_vae.report.page import Section


def score(
    directory: Run, trained: Trained, num_particles: int, split: str = "test", device: str = "auto", **settings: Any
) -> None:
    """Estimate log p(x), write result and report, and print the line that says it.

    Args:
        directory: where they go.
        trained: the run.
        num_particles: K.
        split: the part of the data that is scored.
        device: "auto", or a torch device.
        settings: further ones of ``evidence``.
    """
    setup = trained.setup
    how: dict[str, Any] = {"device": device, "checkpoint": directory.path, **settings}
    ev = evidence(trained.model, trained.guide, setup.data(split), num_particles, **how)
    cited = facts_of(setup, ev, split, str(next(trained.model.parameters()).device))
    bits = bits_per_dimension(trained.config.parts.likelihood, setup.splits, ev)
    cited |= {"bits per dimension": bits} if bits else {}
    directory.write_result(ev, cited)
    write_page(directory, trained, ev, cited, split)
    remarks = setup.kind.remarks(trained.guide, setup.splits, split)
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
        split: the part of the data that was scored.
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
