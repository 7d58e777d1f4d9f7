"""What the machine can do, matrix products and memory traffic, and what share of it evaluation gets.

python examples/benchmarks/roofline.py --threads 2
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from jsonargparse import auto_cli
from machine import describe, same_threads

WIDTHS = (50, 200, 200, 784)
FLOPS = 2 * sum(a * b for a, b in pairwise(WIDTHS))
"""Of one weight log p(x, z_k) - log q(z_k | x): the decoder's matrix products, 2 x (fan-in) x (fan-out)."""
BYTES = 4 * 2 * sum(WIDTHS)
"""Of one weight, at least: z and each layer's output in float32, written once and read once."""


@dataclass(frozen=True)
class Machine:
    """Measured rates.

    Attributes:
        gflops: of a float32 matrix product, 10^9 floating-point operations a second.
        gbytes: of copying more memory than any cache holds, 10^9 bytes read or written a second.
    """

    gflops: float
    gbytes: float

    def share(self, seconds_per_weight: float) -> str:
        """Say what share of either rate an evaluation has."""
        gflops, gbytes = FLOPS / seconds_per_weight / 1e9, BYTES / seconds_per_weight / 1e9
        return (
            f"{gflops:,.0f} GFLOP/s, {gflops / self.gflops:.0%} of {self.gflops:,.0f}; "
            f"{gbytes:.1f} GB/s, {gbytes / self.gbytes:.0%} of {self.gbytes:.0f}"
        )


def measure(device: str, size: int | None = None, megabytes: int | None = None, rounds: int = 7) -> Machine:
    """Measure both rates, each the best of some rounds: a bound that nothing should exceed by much."""
    size = size or (8192 if device == "cuda" else 1024)
    megabytes = megabytes or (4096 if device == "cuda" else 256)  # many times a cache, and a launch takes no time
    a, b = torch.randn(2, size, size, device=device)
    out = torch.empty_like(a)
    product = _seconds(lambda: torch.mm(a, b, out=out), device, rounds)
    source = torch.zeros(megabytes * 2**18, device=device)
    target = torch.empty_like(source)
    copy = _seconds(lambda: target.copy_(source), device, rounds)
    return Machine(2 * size**3 / product / 1e9, 2 * source.nbytes / copy / 1e9)


def _seconds(work: Callable[[], object], device: str, rounds: int) -> float:
    def once() -> float:
        started = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    once()
    return min(once() for _ in range(rounds))


def main(device: str = "cpu", threads: int | None = None, size: int | None = None, rounds: int = 7) -> None:
    """Print the rates of a matrix product and of memory, each the median of three bests.

    Args:
        device: "cpu" or "cuda".
        threads: of PyTorch; what it has if absent.
        size: rows and columns of the matrices; 1,024, on a GPU 8,192, if absent.
        rounds: of which each best is taken.
    """
    with same_threads(threads):
        machines = [measure(device, size, rounds=rounds) for _ in range(3)]
        print(describe(device))
        print(f"Matrix product: {statistics.median(m.gflops for m in machines):,.0f} GFLOP/s.")
        print(f"Memory: {statistics.median(m.gbytes for m in machines):,.1f} GB/s.")


if __name__ == "__main__":
    auto_cli(main)
