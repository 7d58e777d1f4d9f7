"""Partial results of an evaluation on disk, so that an evaluation that was killed resumes where it stopped."""

from __future__ import annotations

import hashlib
import time
import zlib
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from pyro_vae.core.files import atomic_path, make_folder
from pyro_vae.inference.programs.call import Args, Program, fork_rng, hash_of_data, modules_of_both
from pyro_vae.inference.programs.weights import weight_terms
from pyro_vae.inference.scoring.tail import WeightSummary

SECONDS_BETWEEN_WRITES = 5.0


class PartialResults:
    """Summaries of the chunks of data that are done, kept in one file until all are.

    Args:
        folder: where the file goes; None keeps nothing.
        key: a hash of all that the summaries depend on, the file's name.
    """

    def __init__(self, folder: str | Path | None, key: str) -> None:
        self.path = None if folder is None else make_folder(Path(folder)) / f"evidence-{key}.partial.npz"
        self.done: list[WeightSummary] = self._read()
        self._written = time.monotonic()

    def add(self, summary: WeightSummary) -> None:
        """Take in a chunk's summary, and write all of them, no more often than every five seconds."""
        self.done.append(summary)
        if time.monotonic() - self._written > SECONDS_BETWEEN_WRITES:
            self.write()

    def write(self) -> None:
        """Write what is done so far."""
        self._written = time.monotonic()
        if self.path is None or not self.done:
            return
        arrays: dict[str, Any] = {
            f"{i}/{name}": value.numpy() for i, part in enumerate(self.done) for name, value in part.tensors().items()
        }
        with atomic_path(self.path) as temporary, open(temporary, "wb") as file:
            np.savez(file, **arrays)

    def remove(self) -> None:
        """Remove the file, now that all is done."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def _read(self) -> list[WeightSummary]:
        if self.path is None or not self.path.exists():
            return []
        try:
            with open(self.path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
                parts: dict[int, dict[str, Tensor]] = {}
                for entry in file.files:
                    index, name = entry.split("/")
                    parts.setdefault(int(index), {})[name] = torch.from_numpy(file[entry])
            return [WeightSummary.from_tensors(parts[i]) for i in range(len(parts))]
        except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile, zlib.error):
            return []  # it cannot be read, so all is done anew


def hash_of_text(text: str) -> str:
    """Return a hash of a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@torch.no_grad()
def hash_of_programs(model: Program, guide: Program, args: Args) -> str:
    """Return a hash of the parameters of a pair of programs, and of what they do with some data and fixed noise.

    A constant, a closure or a line of code that changes shows in the log weights, and nowhere else.
    """
    states = [module.state_dict() for module in modules_of_both(model, guide)]
    with fork_rng(args[0].device, 0):
        log_w = weight_terms(model, guide, args).log_w
    return hash_of_data([log_w, *(v for state in states for v in state.values() if isinstance(v, Tensor))])
