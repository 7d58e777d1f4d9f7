"""What a benchmark ran on: machine, threads, versions."""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

PACKAGES = ("pyro-vae", "torch", "pyro-ppl", "numpyro", "jax", "pythae")


def describe(device: str) -> str:
    """Return one line on the machine and one on the versions."""
    threads = torch.get_num_threads()
    where = torch.cuda.get_device_name() if device == "cuda" else f"{_processor()}, threads: {threads}"
    found = [f"{name} {_version(name)}" for name in PACKAGES if _version(name)]
    return f"{where}; float32.\nPython {platform.python_version()}, {', '.join(found)}."


@contextmanager
def same_threads(threads: int | None) -> Iterator[None]:
    """Give PyTorch so many threads, and this process so many processors, which is what JAX goes by."""
    before = torch.get_num_threads()
    threads = threads or before
    torch.set_num_threads(threads)
    affinity = getattr(os, "sched_getaffinity", lambda pid: set())(0)
    if len(affinity) > threads:
        os.sched_setaffinity(0, sorted(affinity)[:threads])
    try:
        yield
    finally:
        torch.set_num_threads(before)
        if len(affinity) > threads:
            os.sched_setaffinity(0, affinity)


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
