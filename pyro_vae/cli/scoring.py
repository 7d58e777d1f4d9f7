"""What train, evaluate and report share: log p(x) of a trained run, its result and its report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pyro_vae.inference.scoring.audit import audit as held_against_annealing
from pyro_vae.inference.scoring.base import Estimator
from pyro_vae.inference.scoring.estimates import Evidence
from pyro_vae.inference.scoring.evidence import evidence
from pyro_vae.runs.result import bits_per_dimension, facts_of
from pyro_vae.runs.run import Run, Trained

if TYPE_CHECKING:
    from pyro_vae.report.page import Section


def score(
    directory: Run,
    trained: Trained,
    method: Estimator,
    num_particles: int | None = None,
    *,
    split: str = "test",
    device: str = "auto",
    audit: int = 16,
    **settings: Any,
) -> None:
    """Estimate log p(x), audit it where each datum has its own estimator, write result and report, and print it all.

    Args:
        directory: where they go.
        trained: the run.
        method: the estimator.
        num_particles: K; the method's own where it is None.
        split: the part of the data that is scored.
        device: "auto", or a torch device.
        audit: data at which "auto" is held against annealing from the prior; 0 for none.
        settings: further ones of ``evidence``.
    """
    setup = trained.setup
    how: dict[str, Any] = {"method": method, "device": device, "checkpoint": directory.path, **settings}
    ev = evidence(trained.model, trained.guide, setup.data(split), num_particles, **how)
    cited = facts_of(setup, ev, split, str(next(trained.model.parameters()).device))
    checks = _audit(ev, audit) if ev.estimators and audit else {}
    cited |= checks
    bits = bits_per_dimension(trained.config.parts.likelihood, setup.splits, ev)
    cited |= {"bits per dimension": bits} if bits else {}
    directory.write_result(ev, cited)
    write_page(directory, trained, ev, cited, split)
    remarks = setup.kind.remarks(trained.guide, setup.splits, split)
    remarks += [f"bits per dimension: {bits}"] if bits else []
    told = [*_by_method(ev), *(f"{name}: {text}" for name, text in checks.items()), *remarks]
    print("\n".join([f"report: {directory.report}", *told, f"{split} {trained.in_words(ev, directory.path)}"]))


def _audit(ev: Evidence, num_data: int) -> dict[str, str]:
    """Return what annealing from the prior says of some of the data, as facts to cite."""
    try:
        return {"audit": f"{held_against_annealing(ev, num_data)}".removeprefix("audit: ")}
    except ValueError as error:  # latents that cannot be annealed
        return {"audit": f"none: {error}"}


def _by_method(ev: Evidence) -> list[str]:
    """Return the table of estimators, in lines, with what else there is to know of them."""
    if not ev.estimators:
        return []
    table = ev.by_method()
    table = table[table["data"] + table["seconds"] > 0]
    shown = {"log_px": "{:.2f}", "std_error": "{:.3f}", "seconds": "{:.1f}"}
    for name, form in shown.items():
        table[name] = [form.format(value) if value == value else "" for value in table[name]]
    no_mode = table.attrs["no_mode"]
    notes = [f"no mode found: {no_mode} of {len(ev.log_px)} data"] if no_mode else []
    return [*table.rename_axis(None).to_string().splitlines(), *notes, *ev.notes]


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
