"""The table: each program, what it is refused and by what words, and what is not yet as it should be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from programs_of_others.formulas import Published
from programs_of_others.images import IMAGES
from programs_of_others.sequences import SEQUENCES
from programs_of_others.simple import SIMPLE
from programs_of_others.tables import TABLES
from programs_of_others.text import TEXT

PROGRAMS: dict[str, Callable[[int], Published]] = {**IMAGES, **SEQUENCES, **TEXT, **TABLES, **SIMPLE}
ALL = "*"


@dataclass(frozen=True)
class Row:
    """What becomes of a program where it is not simply the right value.

    Attributes:
        refused: {contract: what the ``ValueError`` says}, of all contracts that are not named by ``ALL``.
        broken: {contract: why it fails today}; the contract is that of ``refused``, or the right value.
        skipped: contracts that have no meaning for the program, or ask too much time of it.
        fine: contracts that hold where ``ALL`` is refused or broken.
        warns: a warning that the program earns wherever several particles run.
        tolerance: of log weights, in nats.
    """

    refused: dict[str, str] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)
    skipped: tuple[str, ...] = ()
    fine: tuple[str, ...] = ()
    warns: str = ""
    tolerance: float = 1e-6

    def words(self, contract: str) -> str | None:
        return None if contract in self.fine else self.refused.get(contract, self.refused.get(ALL))

    def reason(self, contract: str) -> str | None:
        return None if contract in self.fine else self.broken.get(contract, self.broken.get(ALL))


ROWS: dict[str, Row] = {}
