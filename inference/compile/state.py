"""What programs keep from call to call beside their parameters, and compilation of those that keep it in tensors."""

from __future__ import annotations

import math
import pickle
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from pyro import get_param_store
from torch import Tensor, nn

from pyro_vae.inference.compile.compile import compiled
from pyro_vae.inference.compile.record import CannotCompileError, Function
from pyro_vae.inference.programs.call import Program, fork_rng, modules_of_both

Plain = bool | int | float | str


class Attributes:
    """The numbers and names that modules hold as plain attributes, and the tensors that are their buffers.

    Args:
        modules: outermost ones; their submodules count too.
    """

    def __init__(self, modules: list[nn.Module]) -> None:
        parts = dict.fromkeys(part for module in modules for part in module.modules())
        self._modules = list(parts)
        named = [(vars(part), [name for name, v in vars(part).items() if isinstance(v, Plain)]) for part in parts]
        self._plain = [(where, names, [where[name] for name in names]) for where, names in named if names]
        self._buffers = [(part._buffers, dict(part._buffers)) for part in parts]

    def changed(self) -> str | None:
        """Return the name of an attribute that is another since, or of a buffer that was replaced; None without one."""
        for where, names, values in self._plain:
            if not _same(where, names, values):
                pairs = zip(names, values, strict=True)
                return next(name for name, value in pairs if not _same(where, [name], [value]))
        for now, before in self._buffers:
            for name, buffer in now.items():
                if buffer is not before.get(name):
                    return name
        return None

    def put_back(self, instead: Mapping[int, Tensor] = MappingProxyType({})) -> None:
        """Set all as it was; what a buffer that is still there holds is left alone.

        Args:
            instead: tensors that take the place of buffers, by the buffer's ``id``.
        """
        for where, names, values in self._plain:
            where.update(zip(names, values, strict=True))
        for now, before in self._buffers:
            now.clear()
            now.update({name: instead.get(id(buffer), buffer) for name, buffer in before.items()})


def _same(where: Mapping[str, Any], names: list[str], values: list[Plain]) -> bool:
    """Say whether attributes are there and equal, or the same NaN; a tensor in the place of a number is not."""
    try:
        return [where.get(name) for name in names] == values
    except RuntimeError:
        return False


class Snapshot:
    """Attributes and buffers of modules as they are now; ``with`` it, modules run from there again.

    Afterwards they are what they were before that. Buffers are replaced for the while and not overwritten, since a
    graph may hold them.

    Args:
        modules: as in ``Attributes``.
        earlier: a snapshot of the same modules, which shares its copies of what has not changed since.
    """

    def __init__(self, modules: list[nn.Module], earlier: Snapshot | None = None) -> None:
        self._modules, self._attributes = modules, Attributes(modules)
        known = {} if earlier is None else earlier._copies
        buffers = {id(b): b for module in modules for b in module.buffers()}
        unchanged = {key for key, b in buffers.items() if key in known and torch.equal(b, known[key])}
        self._copies: dict[int, Tensor] = {
            key: known[key] if key in unchanged else b.detach().clone() for key, b in buffers.items()
        }

    def __enter__(self) -> None:
        """Set all as it was when the snapshot was taken."""
        self._now = Attributes(self._modules)
        self._attributes.put_back({key: copy.clone() for key, copy in self._copies.items()})

    def __exit__(self, *error: object) -> None:
        """Set all as it was before."""
        self._now.put_back()


def compile_programs(
    model: Program,
    guide: Program,
    function: Function,
    example: tuple[Tensor, ...],
    other: tuple[Tensor, ...],
    most_operations: float = math.inf,
) -> Function:
    """Compile a function of two programs, after a trial which says whether they keep anything but tensors.

    Args:
        model: one of the programs.
        guide: the other.
        function: as in ``compiled``.
        example: likewise.
        other: likewise.
        most_operations: likewise.

    Raises:
        CannotCompileError: if so, or as ``compiled`` does. Buffers, attributes and parameters are then as before.
    """
    modules = modules_of_both(model, guide)
    with state_kept(modules) as attributes:
        with _no_other_noise(), fork_rng(example[0].device), _store_unchanged():
            try:
                function(*example)
            except Exception as error:  # the run that is not compiled raises it again, in the program's own words
                raise CannotCompileError(f"a program fails with {type(error).__name__}") from error
        if name := attributes.changed():
            raise CannotCompileError(
                f"a program sets {name!r} anew in each call; keep it in a buffer, changed in place"
            )
        return compiled(function, example, other, most_operations, lambda: state_kept(modules))


@contextmanager
def state_kept(modules: list[nn.Module]) -> Iterator[Attributes]:
    """Put back buffers, such as the running means of batch normalisation, and attributes that a trial changes."""
    attributes = Attributes(modules)
    buffers = list({id(b): b for module in modules for b in module.buffers()}.values())
    before = [b.clone() for b in buffers]
    try:
        yield attributes
    finally:
        attributes.put_back()
        with torch.no_grad():
            for buffer, kept in zip(buffers, before, strict=True):
                buffer.copy_(kept)


@contextmanager
def _store_unchanged() -> Iterator[None]:
    """Refuse what announces new parameters or replaces one in Pyro's store, and take that back."""
    store = get_param_store()
    before = {name: (value, value.unconstrained()) for name, value in store.items()}
    yield
    for name, value in list(store.items()):
        if name not in before:
            del store[name]
            raise CannotCompileError(f"parameter {name!r} turns up during training")
        if value.unconstrained() is not before[name][1]:
            store[name] = before[name][0].detach()
            raise CannotCompileError(f"a program replaces parameter {name!r} in Pyro's store in each call")


@contextmanager
def _no_other_noise() -> Iterator[None]:
    """Refuse draws from the generators of Python or NumPy, and take them back: a record would repeat them for good."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - it is users' programs that draw
    try:
        yield
        drawn = random.getstate() != python or pickle.dumps(np.random.get_state()) != pickle.dumps(numpy)  # noqa: NPY002 - likewise
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
    if drawn:
        raise CannotCompileError("a program draws random numbers from Python or NumPy; draw them from torch")
