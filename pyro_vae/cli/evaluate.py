"""The commands that judge trained runs: evaluate, compare, report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import Namespace
from torch import nn

from pyro_vae.core.checks import check_positive_int, check_seed
from pyro_vae.core.files import atomic_path
from pyro_vae.data.splits import PARTS, Splits
from pyro_vae.inference import Evidence, compare, evidence
from pyro_vae.runs import building, reading
from pyro_vae.runs.building import Config
from pyro_vae.runs.kinds import Pair
from pyro_vae.runs.registry import build_part
from pyro_vae.runs.run import Run, write_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd

    from pyro_vae.report.page import Section


@dataclass(frozen=True)
class Trained:
    """What a run directory holds once it is loaded."""

    config: Config
    splits: Splits
    model: nn.Module
    guide: nn.Module
    history: list[dict[str, float]]

    @property
    def pair(self) -> Pair:
        """What model and guide are, and what they are called with."""
        return building.pair_of(self.config)

    def in_words(self, evidence: Evidence) -> str:
        """Return the result in one line."""
        return f"{evidence}".replace("log p(x)", self.pair.quantity)


def evaluate_run(options: Namespace) -> None:
    """Estimate log p(x) of a trained run anew, in a folder of its own."""
    run = Run(options.run)
    trained = Trained(*run.load(options.data_root))
    if options.split not in PARTS:
        raise ValueError(f"Expected --split to be one of {', '.join(PARTS)}; got {options.split!r}.")
    spec = options.method.as_dict()
    method = build_part("method", spec)
    num_particles = method.default_particles if options.num_particles is None else options.num_particles
    check_positive_int(num_particles, "num_particles")
    check_positive_int(options.chunk_size, "chunk_size")
    check_seed(options.seed)
    folder = run.evaluation(options.split, spec, num_particles, options.seed)
    settings = {name: options[name] for name in ("split", "chunk_size", "seed", "device", "compile", "precision")}
    try:
        score(folder, trained, num_particles, method=method, **settings)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"Interrupted; the same command goes on from what {folder.path} holds.") from None


def score(
    run: Run, trained: Trained, num_particles: int, split: str = "test", device: str = "auto", **settings: Any
) -> None:
    """Estimate log p(x), write result and report, and print the line that says it."""
    x = trained.pair.data(trained.splits, split)
    ev = evidence(trained.model, trained.guide, x, num_particles, device=device, checkpoint=run.path, **settings)
    where = str(next(trained.model.parameters()).device)
    facts = building.facts(trained.config, trained.splits, ev, split, where)
    bits = reading.bits_per_dimension(trained.config, trained.splits, ev)
    facts |= {"bits per dimension": bits} if bits else {}
    run.write_result(ev, facts)
    _write_report(run, trained, ev, facts, split)
    remarks = trained.pair.remarks(trained.guide, trained.splits, split)
    remarks += [f"bits per dimension: {bits}"] if bits else []
    print("\n".join([f"report: {run.report}", *remarks, f"{split} {trained.in_words(ev)}"]))


def report_run(options: Namespace) -> None:
    """Run all diagnostics of a trained run, print what they find, and write its report anew with them."""
    from pyro_vae.report.diagnosis import diagnose

    run = Run(options.run)
    trained = Trained(*run.load(options.data_root))
    ev = Evidence.load(run.evidence)
    findings = diagnose(
        trained.model,
        trained.guide,
        trained.pair.data(trained.splits, "test"),
        options.seed,
        device=options.device,
    )
    _write_report(run, trained, ev, run.facts(), "test", [finding.as_section() for finding in findings])
    for finding in findings:
        print(f"{finding.title}: {finding.line}")
    print(f"report: {run.report}\ntest {trained.in_words(ev)}")


def _write_report(
    run: Run,
    trained: Trained,
    evidence: Evidence,
    facts: Mapping[str, str],
    split: str,
    further: Sequence[Section] = (),
) -> None:
    from pyro_vae.report.report import Scored, write_report

    splits = trained.splits
    scored = Scored(
        evidence,
        getattr(splits, split),
        y=trained.pair.y(splits, split),
        labels=splits.labels[split] if splits.labels else None,
        image_shape=splits.image_shape,
        split=split,
    )
    write_report(
        run.report,
        scored,
        trained.model.cpu(),
        trained.guide.cpu(),
        title=f"{splits.name}: {split} {trained.pair.quantity}",
        facts=facts,
        history=trained.history,
        further=further,
    )


def compare_runs(paths: list[str], out: str | None = None) -> None:
    """Print the comparison of runs or evaluation folders, and write it where asked.

    Args:
        paths: run directories, or evaluation folders inside them.
        out: stem of the files OUT.csv and OUT.png; nothing is written if absent.

    Raises:
        ValueError: for a path given twice, one without an evaluation, or results that cannot be compared.
    """
    if len({Path(path).resolve() for path in paths}) < len(paths):
        raise ValueError("Expected different runs to compare; got one of them twice.")
    table = compare({path: Evidence.load(Run(path).evidence) for path in paths})
    if out is not None:
        from pyro_vae.report.figures import comparison_plot

        csv, picture = (Path(out).with_suffix(suffix) for suffix in (".csv", ".png"))
        write_text(csv, table.to_csv())
        with atomic_path(picture) as temporary:
            comparison_plot(table).savefig(temporary, format="png", dpi=150)
        print(f"{csv}\n{picture}")
    print(f"{table.attrs['protocol']}\n{table.round(3).to_string()}")
    for note in _notes(paths, table):
        print(note)


def _notes(paths: list[str], table: pd.DataFrame) -> list[str]:
    """Say what the columns are, and what makes the comparison doubtful."""
    notes = ["diff: log p(x) of the best minus this one, datum by datum; diff_stderr: its standard error over data."]
    parts = {Run(path).facts().get("likelihood", "unknown") for path in paths}
    if len(parts) > 1:
        notes.append(
            f"The likelihoods differ ({', '.join(sorted(parts))}): a difference means something only between densities "
            "of the same x by the same measure."
        )
    most = int(table["num_unreliable"].max())
    if most:
        notes.append(
            f"k-hat is above 0.7 at up to {most} data: log_px is most likely too low there, and neither bias nor "
            "diff_mc_stderr can be trusted. See pyro-vae evaluate --method."
        )
    return notes
