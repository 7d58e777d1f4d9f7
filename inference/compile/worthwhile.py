"""Whether to compile: as the user says, and with "auto" where the work to come saves more time than compiling takes."""

from __future__ import annotations

LEAST = {
    "calls": 300,
    "steps": 10_000,
    "weights": 10_000_000,
}
"""How much work, by its unit, pays for compilation.

calls: of a function that is recorded alone. A Pyro program costs about 1 ms a call, its recording about 100 ms.
steps: of training, times the particles of each. About 5 ms of each are saved, and 15 s spent.
weights: times the temperatures of each where they are annealed. About 3 s are saved on a million of a small network,
and 15 s spent.
"""


def check_compile(setting: bool | str) -> None:
    """Refuse what is no setting of ``compile``, with a ``ValueError``."""
    if setting not in ("auto", True, False):
        raise ValueError(f'Expected compile to be "auto", True or False; got {setting!r}.')


def is_worthwhile(work: int, unit: str, setting: bool | str = "auto") -> bool:
    """Say whether to compile: with True always, with False never, with "auto" where there is so much work.

    Args:
        work: how much of it is to come.
        unit: what it is counted in, a key of ``LEAST``.
        setting: True, False or "auto".
    """
    return bool(setting) if setting != "auto" else work >= LEAST[unit]


def excess(work: int, unit: str) -> float:
    """Return how many times the least work that pays there is."""
    return work / LEAST[unit]
