"""The command compare: trained runs ranked by log p(x) of the same data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace

from pyro_vae.cli.options import Choices, make_parser
from pyro_vae.core.files import atomic_path, write_text
from pyro_vae.inference.scoring.compare import compare
from pyro_vae.inference.scoring.estimates import Evidence
from pyro_vae.runs.run import Run

if TYPE_CHECKING:
    import pandas as pd

WHAT_DIFFERS = ("model", "prior", "likelihood", "guide", "latent dimension", "networks", "objective", "training")
"""Facts of a result that are shown where the runs differ in them."""


def make(choices: Choices) -> ArgumentParser:
    """Return the parser of the command."""
    parser = make_parser("Rank trained runs by log p(x) of the same data, with paired differences and their errors.")
    parser.add_argument("runs", type=str, nargs="+", help="run directories, or evaluation folders inside them")
    parser.add_argument("--out", type=str | None, default=None, help="write OUT.csv and the picture OUT.png too")
    return parser


def run(options: Namespace) -> None:
    """Print the comparison of runs or evaluation folders, and write it where asked.

    Raises:
        ValueError: for a path given twice, one without an evaluation, or results that cannot be compared.
    """
    paths, out = options.runs, options.out
    if len({Path(path).resolve() for path in paths}) < len(paths):
        raise ValueError("Expected different runs to compare; got one of them twice.")
    table = compare({path: Evidence.load(Run(path).evidence) for path in paths})
    differing = what_differs(paths)
    if out is not None:
        from pyro_vae.report.figures import comparison_plot

        csv, picture = (Path(out).with_suffix(suffix) for suffix in (".csv", ".png"))
        write_text(csv, table.join(differing).to_csv())
        with atomic_path(picture) as temporary:
            comparison_plot(table).savefig(temporary, format="png", dpi=150)
        print(f"{csv}\n{picture}")
    print(f"{table.attrs['protocol']}\n{table.round(3).to_string()}")
    if len(differing.columns):
        print(f"\n{differing.loc[table.index].to_string()}\n")
    for note in _notes(paths, table):
        print(note)


def what_differs(paths: list[str]) -> pd.DataFrame:
    """Return the facts of the runs in which they differ, such as prior and latent dimension, one row a run."""
    import pandas as pd

    every = {path: Run(path).facts() for path in paths}
    facts = pd.DataFrame([{n: facts.get(n, "unknown") for n in WHAT_DIFFERS} for facts in every.values()], index=paths)
    return facts.loc[:, facts.nunique() > 1].rename_axis("model")


def _notes(paths: list[str], table: pd.DataFrame) -> list[str]:
    """Say what the columns are, and what makes the comparison doubtful."""
    notes = ["diff: log p(x) of the best minus this one, datum by datum; diff_stderr: its standard error over data."]
    parts = {Run(path).facts().get("likelihood", "unknown") for path in paths}
    if len(parts) > 1 and any("Multinomial" in part for part in parts):
        notes.append("A multinomial is the probability of x given its total: no other likelihood compares with it.")
    most = int(table["num_flagged"].max())
    if most:
        notes.append(
            f"Up to {most} data are flagged, k-hat above 0.7: log_px is most likely too low there, and neither bias "
            "nor diff_mc_stderr can be trusted."
        )
    return notes
