"""Guards that hold for every test: random state seeded, global switches untouched, Pyro's store empty."""

from __future__ import annotations

import getpass
import logging
import os
import tempfile

import numpy as np
import pyro
import pytest
import torch
from torch.utils._triton import has_triton


def pytest_addoption(parser):
    parser.addoption("--device", default="cpu", help="device that the device-aware tests run on")
    parser.addoption("--long", action="store_true", help="run the long versions of tests too")
    parser.addoption("--exact", action="store_true", help="compare goldens bit by bit")


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--long"):
        for item in items:
            if "long" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="long: pytest --long"))


def pytest_configure(config):
    """Give each worker one thread and a cache of its own, and let torch look for Triton, which it does only once.

    Small operations on two threads wait for each other: where the cores are shared that is most of the time.
    """
    if not config.getoption("--exact"):  # how sums are split between threads shows in the last bits
        torch.set_num_threads(1)
        os.environ["OMP_NUM_THREADS"] = "1"  # of processes that tests start
    if worker := os.environ.get("PYTEST_XDIST_WORKER"):
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = f"{tempfile.gettempdir()}/torchinductor_{getpass.getuser()}_{worker}"
    if config.getoption("--device") != "cpu":
        has_triton()


@pytest.fixture
def device(request) -> torch.device:
    return torch.device(request.config.getoption("--device"))


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """A folder in the place of the user's cache; absent at first."""
    folder = tmp_path / "cache"
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda *args, **kwargs: str(folder))
    return folder


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty working directory with a small binary data set in it."""
    monkeypatch.chdir(tmp_path)
    bits = np.random.default_rng(0).random((100, 6)) < 0.4
    np.save("bits.npy", bits.astype(np.float32))
    return tmp_path


@pytest.fixture
def recorded_only(monkeypatch):
    """Leave recorded graphs as they are, since the compiler needs seconds for each; return those it would get."""
    graphs = []
    monkeypatch.setattr(torch, "compile", lambda graph, **options: graphs.append(graph) or graph)
    return graphs


@pytest.fixture(autouse=True)
def _gpu_only_where_asked_for(request):
    """Where there is a GPU, device="auto" would take it, and tests would compare its tensors with the CPU's."""
    with pytest.MonkeyPatch.context() as patch:
        if "device" not in request.fixturenames:
            patch.setattr(torch.cuda, "is_available", lambda: False)
        yield


def _switches() -> dict[str, object]:
    return {
        "default dtype": torch.get_default_dtype(),
        "grad enabled": torch.is_grad_enabled(),
        "torch validation": torch.distributions.Distribution._validate_args,
        "pyro validation": pyro.infer.util.is_validation_enabled(),
        "module local params": pyro.settings.get("module_local_params"),
        "matmul precision": torch.get_float32_matmul_precision(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "pyro logging": logging.getLogger("pyro").level,
        "threads": torch.get_num_threads(),
    }


@pytest.fixture(autouse=True)
def _no_global_effects():
    before = _switches()
    pyro.clear_param_store()
    torch.manual_seed(20260101)
    yield
    assert _switches() == before, "a test, or what it called, changed a global switch"
    pyro.clear_param_store()
