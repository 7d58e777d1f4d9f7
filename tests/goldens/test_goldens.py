"""What was recorded is what comes out: numbers, texts, old run directories and old class paths.

Another processor rounds otherwise, so that numbers are compared up to a thousandth; ``--exact`` compares bits, on the
machine that recorded them.
"""

from __future__ import annotations

import json
import shutil

import cases
import pytest
import torch

from pyro_vae.runs.registry import REGISTRIES

NUMBERS = json.loads((cases.FOLDER / "numbers.json").read_text())
RUNS = json.loads((cases.FOLDER / "runs.json").read_text())
CLASS_PATHS = json.loads((cases.FOLDER / "class_paths.json").read_text())
COMPILED = ("compiled: vae", "compiled: plain_pyro")
"""Compiled cases that every run of the tests has time for."""
SLOW = [name for name in cases.CASES if name.startswith("compiled") and name not in COMPILED]


@pytest.fixture
def same(request):
    exact, threads = request.config.getoption("--exact"), torch.get_num_threads()
    torch.set_num_threads(cases.THREADS)

    def compare(got, recorded, tolerance=1e-3):
        assert got == (recorded if exact else pytest.approx(recorded, rel=tolerance, abs=tolerance, nan_ok=True))

    yield compare
    torch.set_num_threads(threads)


@pytest.mark.filterwarnings("ignore:Cannot compile", "ignore:Converting a tensor")
@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.long] * (n in SLOW)) for n in cases.CASES])
def test_numbers(name, same):
    got = json.loads(json.dumps(cases.CASES[name]()))
    same(got, NUMBERS[name], 0.5 if name == "ranked" else 1e-3)  # a rank moves by whole numbers


@pytest.mark.parametrize("name", cases.TEXTS)
def test_texts(name, monkeypatch, tmp_path):
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.chdir(tmp_path)
    recorded = (cases.FOLDER / "texts" / f"{name}.txt").read_text()
    assert cases.command(*cases.TEXTS[name]).split() == recorded.split()


@pytest.fixture
def old_run(request, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(cases.DIRECTORIES / request.param, "run")
    return request.param


@pytest.mark.parametrize("old_run", RUNS, indirect=True)
def test_an_old_run_is_scored_again(old_run, same):
    same(cases.scored_again("run"), RUNS[old_run]["scored again"])


@pytest.mark.parametrize("old_run", RUNS, indirect=True)
def test_an_old_run_is_resumed(old_run, same):
    same(cases.resumed("run"), RUNS[old_run]["resumed"])


PATHS = [(kind, name, path) for kind, parts in CLASS_PATHS.items() for name, paths in parts.items() for path in paths]


@pytest.mark.parametrize(("kind", "name", "path"), PATHS)
def test_an_old_class_path_is_read(kind, name, path):
    registry = REGISTRIES[kind]
    assert registry.find(path) is registry.known()[name]
