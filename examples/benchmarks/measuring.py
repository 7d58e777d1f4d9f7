"""The costs of training and of evaluation, contestant by contestant."""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from unittest.mock import patch

import evaluation
from peers import Contestant, Task, Unavailable, enter, load
from rounds import Measure, Table, alternate

from pyro_vae.inference import evidence

EPOCHS = 3
"""Passes a turn, of which the first is left out: it warms up, and where ``fit`` compiles, it compiles."""
BY_HAND_IN_JAX = {"NumPyro scan": "JAX by hand"}
"""NumPyro estimates no log p(x); in its place comes what one writes in JAX."""


def measure_training(task: Task, contestants: Sequence[str], rounds: int) -> Table:
    """Return seconds a step."""

    def join(name: str) -> Measure:
        contestant = enter(name, task)
        contestant.train(1)
        return lambda: _turn(contestant, task)

    return _measure({name: lambda name=name: join(name) for name in contestants}, rounds)


def _turn(contestant: Contestant, task: Task) -> float:
    passes = contestant.train(EPOCHS)[1:]
    return statistics.median(one.seconds for one in passes) / task.steps


def measure_evaluation(
    contestants: Sequence[str], device: str, num_data: int, num_particles: int, rounds: int
) -> Table:
    """Return seconds a weight of log p(x) at K = num_particles; pythae gets a tenth of the data."""
    x = Task(batch_size=num_data, steps=1, device=device).data()
    programs = [program.to(device) for program in evaluation.build()]

    def join(name: str) -> Measure:
        scorer = _scorer(name)(*programs)
        data = x[: max(1, num_data // 10)] if name == "pythae" else x

        def run() -> float:
            started = time.perf_counter()
            with stopwatch() as compilation:
                scorer(data, num_particles).sum().item()
            return (time.perf_counter() - started - compilation.seconds) / (len(data) * num_particles)

        run()
        return run

    table = _measure({name: lambda name=name: join(name) for name in contestants}, rounds)
    return Table({BY_HAND_IN_JAX.get(name, name): costs for name, costs in table.costs.items()}, table.skipped)


@dataclass
class Stopwatch:
    seconds: float = 0.0


@contextmanager
def stopwatch() -> Iterator[Stopwatch]:
    """Time what ``evidence`` does to compile, which it does anew in each call."""
    module, watch = import_module("pyro_vae.inference.scoring.evidence"), Stopwatch()
    compile_chunks = module.compile_method

    def timed(*args, **kwargs):
        started = time.perf_counter()
        try:
            return compile_chunks(*args, **kwargs)
        finally:
            watch.seconds += time.perf_counter() - started

    with patch.object(module, "compile_method", timed):
        yield watch


def _scorer(name: str) -> Callable:
    module, scorer = {
        "pyro-vae": ("evaluation", evaluation.ours),
        "by hand": ("evaluation", evaluation.by_hand),
        "by hand, torch.compile": ("evaluation", evaluation.by_hand_compiled),
        "NumPyro scan": ("jax", evaluation.in_jax),
        "pythae": ("pythae", evaluation.in_pythae),
        "pyro-vae, compiled": ("evaluation", compiled_evidence),
    }.get(name, (None, None))
    if module is None:
        raise Unavailable("it has no evaluation of its own")
    load(module)
    return scorer


def compiled_evidence(model, guide) -> evaluation.Scorer:
    def score(x, k):
        settings = {
            "chunk_size": evaluation.CHUNK,
            "device": x.device,
            "progress": False,
            "compile": True,
            "method": "iw",
        }
        return evidence(model, guide, x, k, **settings).log_px

    return score


def _measure(joins: Mapping[str, Callable[[], Measure]], rounds: int) -> Table:
    table, measures = Table(), {}
    for name, join in joins.items():
        try:
            measures[name] = join()
        except Unavailable as reason:
            table.skipped[name] = str(reason).rstrip(".")
    table.costs = alternate(measures, rounds)
    return table
