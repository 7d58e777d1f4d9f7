"""Where the time of a training step goes: matrix products, the optimiser, other operations, and Python between them.

The matrix products of a step take so many floating-point operations, whoever asks for them; at the machine's measured
rate of large products they cannot take less time than the line under each table says. PyTorch's profiler itself costs
microseconds for each operation, so shares are read here, and times in ``speed.py``.

    python examples/benchmarks/profiling.py --out profile.md
    python examples/benchmarks/profiling.py --workloads '[iwae-50]' --device cuda
"""

import re
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext

import roofline
import torch
from jsonargparse import auto_cli
from machine import describe, same_threads
from peers import Task, enter
from speed import TRAINING, check_names, shorten, write
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity
from torch.utils.flop_counter import FlopCounterMode

KINDS = {
    "matrix products": r"::(add|b|badd)?mm$|linear_pointwise|gemm|gemv|cutlass|splitK",
    "convolutions": r"conv(?!ert)|winograd|dgrad|wgrad|fprop",
    "optimiser": r"adam",
    "random numbers": r"::normal_$|randperm|bernoulli_|distribution|philox",
    "kernels of the compiler": r"cpp_fused|triton_",
    "other operations": r"::|kernel|Memcpy|Memset",
}
"""What an operation is, by the first pattern found in its name: PyTorch's on the CPU, the kernel's on a GPU."""
REST = "Python, and waiting"
PASSES = 3
"""Passes over the data, of which the last is looked at; ``fit`` compiles in the first."""


def measure(name: str, task: Task) -> Counter[str]:
    """Return the seconds a step that a contestant spends on each kind."""
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (task.device == "cuda")
    with _named_kernels(task.device):
        contestant = enter(name, task)
        contestant.train(1)
        with torch.profiler.profile(activities=activities, acc_events=True) as profiler:
            last = contestant.train(PASSES)[-1]
    device = DeviceType.CUDA if task.device == "cuda" else DeviceType.CPU
    events = [event for event in profiler.events() if event.device_type == device and _kind(event.name)]
    begin = max(event.time_range.end for event in events) - 1e6 * last.seconds
    spent: Counter[str] = Counter()
    for event in events:
        if event.time_range.start >= begin:
            own = event.self_device_time_total if task.device == "cuda" else event.self_cpu_time_total
            spent[_kind(event.name)] += own / 1e6 / task.steps
    spent[REST] = last.seconds / task.steps - spent.total()
    return spent


def flops(task: Task) -> float:
    """Return the floating-point operations of a step's matrix products and convolutions."""
    contestant = enter("by hand", task)
    with FlopCounterMode(display=False) as counter:
        contestant.train(1)
    return counter.get_total_flops() / task.steps


def table(costs: dict[str, Counter[str]]) -> list[str]:
    """Return the rows of a Markdown table, one for each kind, in ms and as a share of the step."""
    kinds = [kind for kind in (*KINDS, REST) if any(spent[kind] for spent in costs.values())]
    lines = [f"| ms/step | {' | '.join(costs)} |", "|---" * (1 + len(costs)) + "|"]
    for kind in kinds:
        cells = [f"{1e3 * spent[kind]:.3g} ({spent[kind] / spent.total():.0%})" for spent in costs.values()]
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    return [*lines, f"| together | {' | '.join(f'{1e3 * spent.total():.3g}' for spent in costs.values())} |", ""]


def main(
    workloads: Sequence[str] = ("elbo-100", "iwae-50"),
    contestants: Sequence[str] = ("pyro-vae, compiled", "by hand, torch.compile"),
    device: str = "cpu",
    threads: int | None = None,
    max_steps: int | None = None,
    out: str = "profile.md",
) -> None:
    """Profile a step of each contestant and write a table for each workload.

    Args:
        workloads: which of elbo-100, elbo-1000, iwae-5, iwae-50, conv, epoch.
        contestants: which of those in ``peers`` that run on PyTorch.
        device: "cpu" or "cuda".
        threads: of PyTorch; what it has if absent.
        max_steps: most steps of a pass, for a quick look.
        out: Markdown file to write.
    """
    check_names(workloads, list(TRAINING), "workloads")
    with same_threads(threads):
        machine = roofline.measure(device)
        lines = [describe(device), ""]
        for title, task in (TRAINING[workload] for workload in workloads):
            task = shorten(task, device, max_steps)
            work = flops(task)
            lines += [f"### {title}", "", *table({name: measure(name, task) for name in contestants})]
            lines += [
                f"Matrix products and convolutions: {work / 1e9:.3g} GFLOP a step, "
                f"{1e3 * work / machine.gflops / 1e9:.3g} ms at the {machine.gflops:,.0f} GFLOP/s of large ones.",
                "",
            ]
            write(out, lines, title)
    print("\n".join(lines))


def _kind(operation: str) -> str | None:
    """Return what an operation is; None of what only surrounds others, such as a compiled region."""
    return next((kind for kind, pattern in KINDS.items() if re.search(pattern, operation)), None)


def _named_kernels(device: str):
    """Have inductor's kernels on the CPU announce themselves to the profiler; on a GPU all do."""
    import torch._inductor.config as inductor

    return inductor.patch({"cpp.enable_kernel_profile": True}) if device == "cpu" else nullcontext()


if __name__ == "__main__":
    auto_cli(main)
