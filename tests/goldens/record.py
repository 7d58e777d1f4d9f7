"""Record the goldens anew: ``python tests/goldens/record.py [texts] [numbers] [runs]``.

Numbers and texts are what this version gives; a commit that records other ones says why. Run directories and the table
of class paths are those of version 0.1, and stay: they show that old ones can be read.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

os.environ["COLUMNS"] = "100"  # before argparse looks at the terminal

import cases
import torch


def record_numbers() -> None:
    """Write the numbers of every case, in full precision."""
    write("numbers.json", {name: case() for name, case in cases.CASES.items()})


def record_texts() -> None:
    """Write what every command prints of itself."""
    folder = cases.FOLDER / "texts"
    folder.mkdir(exist_ok=True)
    for name, argv in cases.TEXTS.items():
        (folder / f"{name}.txt").write_text(cases.command(*argv))


def record_runs() -> None:
    """Write what the old run directories give when they are scored again, and when they are resumed."""
    found = {}
    for name in run_names():
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            shutil.copytree(cases.DIRECTORIES / name, "run")
            found[name] = {"scored again": cases.scored_again("run"), "resumed": cases.resumed("run")}
    write("runs.json", found)


def run_names() -> list[str]:
    """Return the names of the run directories."""
    return sorted(path.name for path in cases.DIRECTORIES.iterdir() if path.is_dir())


def write(name: str, values: object) -> None:
    """Write a record of numbers, a line for each list."""
    text = json.dumps(values, indent=1)
    (cases.FOLDER / name).write_text(text + "\n")


if __name__ == "__main__":
    torch.set_num_threads(cases.THREADS)
    for what in sys.argv[1:] or ("texts", "numbers", "runs"):
        {"texts": record_texts, "numbers": record_numbers, "runs": record_runs}[what]()
        print(Path(what).name)
