"""Cost of training and evaluation: this library against Pyro, PyTorch by hand, NumPyro and pythae, in one table.

All contestants start with the same weights, see the same data (synthetic bits), the same batch size and number of
particles, train with Adam at 1e-3 in float32 with the same number of threads, and estimate the same bound by the
same reparameterised gradient; ``--check`` shows that they do. They run in turn, round after round, in one process;
a table has the median and the spread of each one's cost against the reference's in the same round.

A step gathers the next minibatch, computes loss and gradient, and steps the optimiser. In the workload "epoch" the
data come as the peer's own examples have them: by ``fit``, by ``DataLoader`` (Pyro), inside the scan (NumPyro), by its
trainer (pythae), by index (by hand). Pyro and NumPyro minimise the sum over a minibatch, the others the mean, which
costs the same; pythae has the KL term of its ELBO in closed form. Compilation is left out.

    pip install -e ".[bench]"
    python examples/benchmarks/speed.py --out speed.md
    python examples/benchmarks/speed.py --workloads '[iwae-50]' --contestants '[pyro-vae, by hand]' --device cuda
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import equal_work
import roofline
import torch
from jsonargparse import auto_cli
from machine import describe, same_threads
from measuring import measure_evaluation, measure_training
from peers import CONTESTANTS, Task

TRAINING = {
    "elbo-100": ("ELBO, batch 100", Task(steps=200)),
    "elbo-1000": ("ELBO, batch 1000", Task(batch_size=1000, steps=10)),
    "iwae-5": ("IWAE, K=5, batch 100", Task(num_particles=5, steps=50)),
    "iwae-50": ("IWAE, K=50, batch 100", Task(num_particles=50, steps=5)),
    "conv": ("ELBO, batch 100, convolutional", Task(network="conv", steps=5)),
    "epoch": ("ELBO, batch 100, epochs of 10,000 data, data path included", Task(steps=100, natural=True)),
}
PROTOCOL = (
    "784-200-200-50 with tanh or two strided convolutions, synthetic bits, Adam 1e-3; Pyro and NumPyro minimise "
    "the sum over a minibatch, the others the mean; compilation left out."
)
GPU_STEPS = 200
"""Steps in a pass on a GPU, at least, where they take so little time that the end of a pass would count."""
WORKLOADS = (*TRAINING, "evaluation")


def check_names(given: Sequence[str], known: Sequence[str], what: str) -> None:
    unknown = [name for name in given if name not in known]
    if unknown:
        raise ValueError(f"Expected {what} among {_listed(known)}; got {_listed(unknown)}.")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)  # some names have commas


def main(
    workloads: Sequence[str] = WORKLOADS,
    contestants: Sequence[str] = tuple(CONTESTANTS),
    rounds: int = 5,
    reference: str = "by hand",
    device: str = "cpu",
    threads: int | None = None,
    max_steps: int | None = None,
    num_particles: int = 5000,
    num_data: int = 78,
    check: bool = False,
    curves: str | None = None,
    out: str = "speed.md",
) -> None:
    """Time the contestants and write a table for each workload.

    Args:
        workloads: which of elbo-100, elbo-1000, iwae-5, iwae-50, conv, epoch, evaluation.
        contestants: which of those in ``peers``.
        rounds: turns of each contestant.
        reference: the contestant that ratios are against.
        device: "cpu" or "cuda".
        threads: of PyTorch and JAX alike; what PyTorch has if absent.
        max_steps: most steps of a pass, for a quick look.
        num_particles: K of the evaluation.
        num_data: data of the evaluation; 78 are two chunks of K = 5,000.
        check: instead of timing, show that the contestants do the same work.
        curves: picture to write of cost against batch size, K, N and width, in place of the workloads.
        out: Markdown file to write.
    """
    check_names(workloads, WORKLOADS, "workloads")
    check_names([*contestants, reference], list(CONTESTANTS), "contestants")
    if device not in ("cpu", "cuda") or (device == "cuda" and not torch.cuda.is_available()):
        raise ValueError(f"Expected device cpu, or cuda where there is a GPU; got {device}.")
    for name, value in {
        "rounds": rounds,
        "max_steps": max_steps,
        "num_data": num_data,
        "num_particles": num_particles,
    }.items():
        if value is not None and value < 1:
            raise ValueError(f"Expected {name} of at least 1; got {value}.")
    torch.backends.cudnn.allow_tf32 = False  # as matrix products are, and as JAX is told: all is float32
    chosen = {w: (t, shorten(task, device, max_steps)) for w, (t, task) in TRAINING.items() if w in workloads}
    with same_threads(threads):
        lines = [describe(device), ""]
        if curves:
            _curves(curves, contestants, device, rounds)
            return
        if check:
            lines += equal_work.report(contestants, dict(chosen.values()))
            write(out, lines)
            return
        lines[0] += f"\nMedian of {rounds} rounds in turn; costs against {reference} in the same round. {PROTOCOL}"
        for title, task in chosen.values():
            started = time.perf_counter()
            table = measure_training(task, contestants, rounds)
            lines += [f"### {title}", "", *table.lines("ms/step", 1e3, reference), ""]
            write(out, lines, f"{title}: {time.perf_counter() - started:.0f} s")
        if "evaluation" in workloads:
            table = measure_evaluation(contestants, device, num_data, num_particles, rounds)
            lines += [f"### log p(x), K={num_particles:,}", "", *table.lines("µs/weight", 1e6, reference)]
            machine = roofline.measure(device)
            lines += [f"{name}: {machine.share(table.median(name))}." for name in table.costs]
    write(out, lines)
    print("\n".join(lines))


def shorten(task: Task, device: str, max_steps: int | None) -> Task:
    steps = task.steps if device == "cpu" or task.natural else max(task.steps, GPU_STEPS)
    return replace(task, device=device, steps=min(steps, max_steps or steps))


def _curves(path: str, contestants: Sequence[str], device: str, rounds: int) -> None:
    from curves import SWEEPS, draw, sweep

    draw({name: sweep(name, contestants, device, rounds) for name in SWEEPS}).savefig(path)


def write(out: str, lines: list[str], progress: str = "") -> None:
    Path(out).write_text("\n".join(lines).rstrip() + "\n")
    if progress:
        print(progress, flush=True)


if __name__ == "__main__":
    auto_cli(main)
