"""What importing the library loads: nothing heavy before it is used."""

from __future__ import annotations

import subprocess
import sys

HEAVY = {"arviz", "h5netcdf", "jsonargparse", "matplotlib", "pandas", "scipy", "sklearn", "torchvision", "zuko"}
CODE = """
import sys, torch, pyro
before = set(sys.modules)
import pyro_vae, pyro_vae.models, pyro_vae.inference
print(*sorted({name.split(".")[0] for name in set(sys.modules) - before}))
"""


def test_importing_loads_nothing_heavy():
    """Beyond what torch and Pyro load themselves (tqdm is among it), which is not this library's to change."""
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "pyro_vae" in loaded
    assert not HEAVY & loaded
