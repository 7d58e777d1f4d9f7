"""Trying a program without a trace: whatever it makes, draws or changes is as it was before."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pyro
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoGuide
from pyro.nn import PyroModule

from pyro_vae.inference.programs.call import Program, fork_rng, modules_of_both
from pyro_vae.inference.programs.state import untouched


@contextmanager
def trial(model: Program, guide: Program, device: torch.device) -> Iterator[None]:
    """Run programs out of sight of handlers, and put back random state, parameter store and modules at the end.

    ``pyro.param("loc", lambda: x.mean())`` is initialised by the first data that it sees, once for all: by a few data
    that a program is tried on, if they were not taken out of the store again.
    """
    modules = modules_of_both(model, guide)
    with poutine.block(), fork_rng(device), _other_generators_kept(), store_kept(), untouched(modules):
        yield


@contextmanager
def _other_generators_kept() -> Iterator[None]:
    """Put back the random states of numpy and of Python, which programs may draw from too."""
    of_numpy, of_python = np.random.get_state(), random.getstate()  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(of_numpy)  # noqa: NPY002
        random.setstate(of_python)


@contextmanager
def store_kept() -> Iterator[Callable[[Program, Program], bool]]:
    """Let programs see Pyro's parameter store, and take out at the end what they put there.

    Yields:
        a function of model and guide, which says whether parameters were made since that are no module's own.
    """
    store = pyro.get_param_store()
    before = [(held, dict(held)) for held in (store._params, store._param_to_name, store._constraints)]

    def made(model: Program, guide: Program) -> bool:
        owned = {id(p) for module in modules_of_both(model, guide) for p in module.parameters()}
        return any(name not in before[0][1] and id(p) not in owned for name, p in store._params.items())

    try:
        yield made
    finally:
        for held, entries in before:
            held.clear()
            held.update(entries)


def awaits_data(model: Program, guide: Program) -> bool:
    """Say whether one of Pyro's AutoGuides has not run yet: it takes the shape of the first data that it sees."""
    parts = (part for module in modules_of_both(model, guide) for part in module.modules())
    return any(isinstance(part, AutoGuide) and part.prototype_trace is None for part in parts)


def check_store(model: Program, guide: Program) -> None:
    """Refuse a module whose parameters have names that are others' in Pyro's store.

    A ``PyroParam`` takes whatever stands in the store under its name, "loc" for every module that has no module
    around it: the second of two models would be scored with the parameters of the first.

    Raises:
        ValueError: naming the parameter.
    """
    known = pyro.get_param_store()._params
    for root in modules_of_both(model, guide):
        for part in root.modules():
            name = _taken(part, known) if isinstance(part, PyroModule) else None
            if name is not None:
                raise ValueError(
                    f"Parameter {name!r} in Pyro's store is not that of this {type(part).__name__}: another module has "
                    "the same name, or the store was loaded from a file, and the module would take its values. Call "
                    "the module once to take them; pyro.clear_param_store() keeps the module's own."
                )


def _taken(part: PyroModule, known: dict[str, torch.Tensor]) -> str | None:
    """Return the name of a module's parameter under which another stands in the store."""
    if isinstance(part, AutoGuide) and part.prototype_trace is None:  # its parameters are yet to be made
        return next((name for name in known if name.startswith(f"{part._pyro_name}.")), None)
    for name in part._pyro_params:
        full = f"{part._pyro_name}.{name}" if part._pyro_name else name
        if full in known and known[full] is not part._parameters.get(f"{name}_unconstrained"):
            return full
    return None
