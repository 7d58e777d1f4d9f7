"""What programs keep from call to call beside their parameters: plain attributes and buffers of their modules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

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

    On leaving, attributes and buffers are what they were on entering. Inside, other tensors stand in for the buffers,
    which are not overwritten, since a graph may hold them.

    Args:
        modules: outermost ones; their submodules count too.
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
        """Set all as it was on entering."""
        self._now.put_back()


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
def untouched(modules: list[nn.Module]) -> Iterator[None]:
    """Put back all that a trial changes in modules: parameters, buffers, attributes, and what is made at a first run.

    Pyro's AutoGuides and lazy layers take shape from the first data that they see, and layers that normalise may set
    their parameters by them. Attributes are put back by what they are; a list that grew stays as it is.

    Args:
        modules: outermost ones; their submodules count too.
    """
    parts = list({id(part): part for module in modules for part in module.modules()}.values())
    attributes = [(part, dict(vars(part))) for part in parts]
    members: list[tuple[dict[str, Any], dict[str, Any]]] = [
        (held, dict(held)) for part in parts for held in (part._parameters, part._buffers, part._modules)
    ]
    tensors = {id(t): t for module in modules for t in (*module.parameters(), *module.buffers())}.values()
    values = [(t, t.detach().clone()) for t in tensors if not nn.parameter.is_lazy(t)]
    try:
        yield
    finally:
        for part, before in attributes:
            vars(part).clear()
            vars(part).update(before)
        for held, names in members:
            held.clear()
            held.update(names)
        with torch.no_grad():
            for tensor, value in values:
                if not torch.equal(tensor, value):
                    tensor.copy_(value)
