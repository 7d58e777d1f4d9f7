"""Variational autoencoders as explicit Pyro programs.

The generative model p(z) p(x|z) lives in ``pyro_vae.models``, the guide q(z|x), the objectives and the
estimates of log p(x) in ``pyro_vae.inference``; this package has the data, the runs and the command line.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyro_vae.data import Splits as Splits
    from pyro_vae.data import load_data as load_data

__version__ = "0.1.0"
__all__ = ["Splits", "load_data"]
_HOMES = {"Splits": "pyro_vae.data", "load_data": "pyro_vae.data"}
"""Where the public names are: imported when they are asked for, so that the rooms below can be imported alone."""
_ROOMS = ("core", "data", "models", "inference", "runs", "report", "cli")


def __getattr__(name: str) -> Any:
    """Return a public name from its home."""
    if name in _ROOMS:
        return import_module(f"{__name__}.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
