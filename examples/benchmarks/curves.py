"""Cost against batch size, K, N and width: one panel each, one line a contestant."""

from collections.abc import Sequence
from dataclasses import replace

from matplotlib.figure import Figure
from measuring import measure_training
from peers import Task
from rounds import Table

SWEEPS = {
    "batch size": [Task(batch_size=b, steps=max(5, 2000 // b)) for b in (25, 100, 400, 1600)],
    "K": [Task(num_particles=k, steps=max(3, 50 // k)) for k in (1, 5, 20, 50)],
    "N": [Task(steps=n // 100, natural=True) for n in (1000, 2000, 4000, 8000)],
    "width": [Task(width=w, steps=10) for w in (50, 200, 800)],
}
FIELDS = {"batch size": "batch_size", "K": "num_particles", "width": "width"}


def sweep(name: str, contestants: Sequence[str], device: str, rounds: int) -> list[tuple[int, Table]]:
    """Return the setting and the costs of each point of a curve; of a pass for N, of a step for the others."""
    points = []
    for point in SWEEPS[name]:
        task = replace(point, device=device)
        setting = task.batch_size * task.steps if name == "N" else getattr(task, FIELDS[name])
        table = measure_training(task, contestants, rounds)
        if name == "N":
            table.costs = {n: [c * task.steps for c in costs] for n, costs in table.costs.items()}
        points.append((setting, table))
    return points


def draw(curves: dict[str, list[tuple[int, Table]]]) -> Figure:
    """Draw the median cost, and from the cheapest to the dearest round."""
    figure = Figure(figsize=(4 * len(curves), 4), layout="constrained")
    panels = figure.subplots(1, len(curves), squeeze=False)[0]
    for panel, (name, points) in zip(panels, curves.items(), strict=True):
        for contestant in points[0][1].costs:
            there = [(x, [1e3 * c for c in t.costs[contestant]]) for x, t in points if contestant in t.costs]
            settings = [x for x, _ in there]
            medians = [sorted(costs)[len(costs) // 2] for _, costs in there]
            (line,) = panel.loglog(settings, medians, marker="o", markersize=3, label=contestant)
            low, high = [min(costs) for _, costs in there], [max(costs) for _, costs in there]
            panel.fill_between(settings, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
        panel.set_xticks([x for x, _ in points], [f"{x:,}" for x, _ in points])
        panel.xaxis.minorticks_off()
        panel.set_xlabel(name)
        panel.set_ylabel("ms per pass over the data" if name == "N" else "ms per step")
    panels[0].legend(fontsize="small")
    return figure
