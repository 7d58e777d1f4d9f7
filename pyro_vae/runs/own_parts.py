"""Parts of the user's own: what a class can be plugged in as, and the parts that a module holds."""

from __future__ import annotations

import inspect
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from pyro_vae.core.checks import did_you_mean


def load_module(name: str, wanted: str) -> ModuleType:
    """Import a module, of the user's own or not.

    Args:
        name: dotted name.
        wanted: what messages say is looked for, such as "prior 'mine.Wide'".

    Raises:
        ValueError: if it cannot be imported, whatever it raises.
    """
    try:
        return import_module(name)
    except ImportError as error:
        stems = sorted(path.stem for path in Path().glob("*.py"))
        near = "" if name in stems else did_you_mean(name, stems)
        raise ValueError(f"Cannot import {wanted}: {error}.{near} Is it in the working directory?") from error
    except Exception as error:  # the module's own code is run, which may fail in any way
        raise ValueError(f"Cannot import {wanted}: {name} raises {type(error).__name__}: {error}.") from error


def find_class(name: str, wanted: str) -> type:
    """Return a class by its dotted name.

    Raises:
        ValueError: if there is none, naming the nearest class of its module.
    """
    module, _, attribute = name.rpartition(".")
    room = load_module(module, wanted)
    found = getattr(room, attribute, None)
    if found is None:
        near = did_you_mean(attribute, [known for known, value in vars(room).items() if inspect.isclass(value)])
        raise ValueError(f"Cannot import {wanted}: {module} has no {attribute}.{near}")
    if not inspect.isclass(found):
        raise ValueError(f"Expected {wanted} to be a class; got {type(found).__name__}.")
    return found


def kinds_of(part: type, rooms: dict[str, tuple[Any, type]]) -> list[str]:
    """Return the kinds of part that a class can be, by its base class or else by what it is called with.

    Args:
        part: the class.
        rooms: the base class of each kind, as in ``catalogue.ROOMS``.
    """
    by_base = [kind for kind, (_, base) in rooms.items() if issubclass(part, base)]
    if by_base or not issubclass(part, nn.Module):
        return by_base
    made_with = inspect.signature(part).parameters
    if "in_shape" in made_with or "out_features" in made_with:
        return ["encoder", "decoder"]
    if "event_shape" in made_with:
        return ["likelihood"]
    called_with = [p for p in inspect.signature(part.forward).parameters if p != "self"]
    if "dim" not in made_with or len(called_with) > 1:
        return []
    return ["guide"] if called_with else ["prior"]


def parts_in(name: str, rooms: dict[str, tuple[Any, type]]) -> dict[str, type] | None:
    """Return {class: part} of the parts that a module defines itself, or None if there is no such module.

    Raises:
        ValueError: if it cannot be imported.
    """
    try:
        if find_spec(name) is None:
            return None
    except (ImportError, ValueError):
        return None
    held = vars(load_module(name, repr(name)))
    own = {known: v for known, v in held.items() if inspect.isclass(v) and v.__module__ == name}
    return {known: part for known, part in own.items() if not inspect.isabstract(part) and kinds_of(part, rooms)}
