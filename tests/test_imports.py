"""Imports load nothing heavy before it is used, go one way, and find every folder in an install."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = {"arviz", "h5netcdf", "jsonargparse", "matplotlib", "pandas", "scipy", "sklearn", "torchvision", "zuko"}
LOADED = """
import sys, torch, pyro
before = set(sys.modules)
import pyro_vae, pyro_vae.models, pyro_vae.inference
print(*sorted({name.split(".")[0] for name in set(sys.modules) - before}))
"""
LINT = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports('pyproject.toml', no_cache=True))"


def test_importing_loads_nothing_heavy():
    """Beyond what torch and Pyro load themselves (tqdm is among it), which is not this library's to change."""
    done = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "pyro_vae" in loaded
    assert not HEAVY & loaded


@pytest.fixture
def installed(tmp_path):
    """A folder with the package as it is installed, models and inference inside, and with pyproject's contracts."""
    rooms = {"pyro_vae": "pyro_vae", "models": "pyro_vae/models", "inference": "pyro_vae/inference"}
    for room, place in rooms.items():
        inside = () if room != "pyro_vae" else ("models", "inference")  # links of an editable checkout
        shutil.copytree(ROOT / room, tmp_path / place, ignore=shutil.ignore_patterns("__pycache__", *inside))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def against_the_direction(folder):
    """Return the imports that break a contract, each as "importer -> imported"."""
    done = subprocess.run(
        [sys.executable, "-c", LINT],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder), "COLUMNS": "300"},
        capture_output=True,
    )
    output = done.stdout.decode()
    assert re.search(r"Contracts: \d+ kept, \d+ broken", output), output + done.stderr.decode()
    found = set(re.findall(r"[\w.]+ -> [\w.]+", output))
    assert bool(done.returncode) is bool(found)
    return found


@pytest.mark.parametrize(
    ("importer", "imported"),
    [("models.vae", "inference"), ("inference.programs.weights", "inference.training.fit")],
)
def test_an_import_against_the_direction_is_found(installed, importer, imported):
    assert not against_the_direction(installed)
    with (installed / "pyro_vae" / f"{importer.replace('.', '/')}.py").open("a") as file:
        file.write(f"\nimport pyro_vae.{imported}\n")
    assert against_the_direction(installed) == {f"pyro_vae.{importer} -> pyro_vae.{imported}"}


def test_every_folder_is_installed():
    found = [f.parent for room in ("pyro_vae", "models", "inference") for f in (ROOT / room).rglob("__init__.py")]
    folders = {".".join(folder.relative_to(ROOT).parts): folder.relative_to(ROOT).as_posix() for folder in found}
    packages = {name if name.startswith("pyro_vae") else f"pyro_vae.{name}": place for name, place in folders.items()}
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert set(settings["packages"]) == set(packages)
    mapped = {name: place for name, place in packages.items() if name.replace(".", "/") != place or name == "pyro_vae"}
    assert settings["package-dir"] == mapped
