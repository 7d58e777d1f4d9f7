"""Contestants in turn, round after round, and each one's cost against the reference's in the same round."""

import gc
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

Measure = Callable[[], float]
"""Runs once and returns a cost, in any unit that all contestants of a table share."""


@dataclass
class Table:
    """Costs of one workload.

    Attributes:
        costs: by contestant, one for each round.
        skipped: by contestant, why it took no part.
    """

    costs: dict[str, list[float]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    def median(self, name: str) -> float:
        return statistics.median(self.costs[name])

    def ratios(self, name: str, reference: str) -> list[float]:
        """Return the cost against the reference's, round by round, in increasing order."""
        return sorted(a / b for a, b in zip(self.costs[name], self.costs[reference], strict=True))

    def lines(self, unit: str, scale: float, reference: str) -> list[str]:
        """Return the rows of a Markdown table; without the reference there are no ratios."""
        rows = [f"| | {unit} | times {reference} | min to max |", "|---|---|---|---|"]
        for name in self.costs:
            against, spread = "", ""
            if reference in self.costs:
                ratios = self.ratios(name, reference)
                against, spread = f"{statistics.median(ratios):.2f}", f"{ratios[0]:.2f} to {ratios[-1]:.2f}"
            rows.append(f"| {name} | {scale * self.median(name):,.3g} | {against} | {spread} |")
        return [*rows, "", *(f"Without {name}: {reason}." for name, reason in self.skipped.items())]


def alternate(measures: Mapping[str, Measure], rounds: int) -> dict[str, list[float]]:
    """Measure all in turn, so many times, each round beginning with the next, so that no one always comes first."""
    names = list(measures)
    costs: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        start = turn % max(1, len(names))
        for name in names[start:] + names[:start]:
            gc.collect()  # what one leaves behind is not collected in the turn of the next
            costs[name].append(measures[name]())
    return costs
