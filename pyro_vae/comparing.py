"""The command ``compare``: runs ranked by log p(x) of the same data, as a table and a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from pyro_vae._files import atomic_path
from pyro_vae.inference import Evidence, compare
from pyro_vae.plots import BLUE, GREY, single_axes
from pyro_vae.runs import Run, write_text

if TYPE_CHECKING:
    import pandas as pd


def compare_runs(paths: list[str], out: str | None = None) -> None:
    """Print the comparison of runs or evaluation folders, and write it where asked.

    Args:
        paths: run directories, or evaluation folders inside them.
        out: stem of the files OUT.csv and OUT.png; nothing is written if absent.

    Raises:
        ValueError: for a path given twice, one without an evaluation, or results that cannot be compared.
    """
    if len(set(paths)) < len(paths):
        raise ValueError("Expected different runs to compare; got one of them twice.")
    table = compare({path: Evidence.load(Run(path).evidence) for path in paths})
    if out is not None:
        csv, picture = (Path(out).with_suffix(suffix) for suffix in (".csv", ".png"))
        write_text(csv, table.to_csv())
        with atomic_path(picture) as temporary:
            comparison_plot(table).savefig(temporary, format="png", dpi=150)
        print(f"{csv}\n{picture}")
    print(f"{table.attrs['protocol']}\n{table.round(3).to_string()}")


def comparison_plot(table: pd.DataFrame) -> Figure:
    """Draw how far each model is below the best, with two standard errors of the paired difference.

    Args:
        table: what ``compare`` returned.
    """
    figure, axes = single_axes(1.2 + 0.4 * len(table))
    places = list(range(len(table)))[::-1]
    axes.errorbar(-table["diff"], places, xerr=2 * table["diff_stderr"], fmt="o", color=BLUE, capsize=3)
    axes.axvline(0, color=GREY, linewidth=1)
    axes.set_yticks(places, list(table.index))
    axes.set_ylim(-0.6, len(table) - 0.4)
    axes.set_xlabel(f"log p(x) below that of {table.index[0]}, nats per datum, two standard errors")
    return figure
