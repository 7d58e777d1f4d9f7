"""That contestants do the same work: the same loss at the same weights, and the same progress from there."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import replace

import torch
from peers import Task, Unavailable, enter
from peers.by_hand import log_weights, loss
from peers.task import Networks

REPEATS = 10


@torch.no_grad()
def expected(networks: Networks, task: Task, reported_by_pythae: bool = False) -> list[float]:
    """Return estimates of the loss over the data, by hand; or of what pythae's IWAE reports in its place."""
    torch.manual_seed(task.seed + 1)
    x, k = task.data(), task.num_particles
    if not reported_by_pythae:
        return [statistics.fmean(loss(networks, b, k).item() for b in x.split(100)) for _ in range(REPEATS)]
    draws = [[log_weights(networks, b, k) for b in x.split(100)] for _ in range(REPEATS)]
    return [statistics.fmean(-(w.softmax(0) * w).sum(0).mean().item() for w in draw) for draw in draws]


def z_score(a: Sequence[float], b: Sequence[float]) -> float:
    """Return how many standard errors two means are apart."""
    error = math.sqrt(statistics.variance(a) / len(a) + statistics.variance(b) / len(b))
    return (statistics.fmean(a) - statistics.fmean(b)) / error


def check(name: str, task: Task) -> tuple[float, float]:
    """Return the z-score of a contestant's loss, and by how much of its fall its progress is off.

    The first runs the timed loop itself with a learning rate of 0, so that every pass estimates the same number.
    The second trains for 3 passes at the task's learning rate, once by hand and once by the contestant, and
    compares the losses that the learnt weights have, both by hand.

    Raises:
        Unavailable: if the contestant cannot take part.
    """
    torch.manual_seed(task.seed)
    still = replace(task, lr=0.0)
    losses = [one.loss for one in enter(name, still).train(REPEATS)]
    pythae = name == "pythae" and task.num_particles > 1
    z = z_score(losses, expected(task.networks(), task, pythae))
    before, by_hand = statistics.fmean(expected(task.networks(), task)), _after("by hand", task)
    return z, (_after(name, task) - by_hand) / (before - by_hand)


def _after(name: str, task: Task) -> float:
    torch.manual_seed(task.seed)  # the contestants in PyTorch then have the same noise
    contestant = enter(name, task)
    contestant.train(3)
    return statistics.fmean(expected(contestant.networks(), task))


def report(names: Sequence[str], tasks: dict[str, Task]) -> list[str]:
    """Return the rows of a Markdown table of all contestants and tasks."""
    rows = ["| | | standard errors from the loss by hand | progress off by |", "|---|---|---|---|"]
    for label, task in tasks.items():
        for name in names:
            try:
                z, progress = check(name, task)
                rows.append(f"| {label} | {name} | {z:.1f} | {100 * progress:.1f}% |")
            except Unavailable as reason:
                rows.append(f"| {label} | {name} | {reason} | |")
    return rows
