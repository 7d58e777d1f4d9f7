"""What to say of a command line that cannot be understood: the option or the name that was meant."""

from __future__ import annotations

import re
from collections.abc import Iterable
from types import ModuleType

import torch
from jsonargparse import ArgumentParser

from pyro_vae.core.checks import did_you_mean
from pyro_vae.runs.registry import ROOMS, find_part, options_of

TORCH: dict[str, tuple[ModuleType, type]] = {
    "optimizer": (torch.optim, torch.optim.Optimizer),
    "scheduler": (torch.optim.lr_scheduler, torch.optim.lr_scheduler.LRScheduler),
}
"""Where the classes live that are options but no parts."""

OPTIONS = {"load_data(..., missing=True) and VAE(..., missing=True)": "--missing true"}
"""What a message of the library tells a Python program to write, and the option that does the same here."""


def in_options(message: str) -> str:
    """Return a message of the library with options in the place of Python arguments."""
    for python, option in OPTIONS.items():
        message = message.replace(python, option)
    return message


def explain(message: str, parser: ArgumentParser, classes: dict[str, type]) -> str:
    """Return an error message of the parser in words of the command line.

    Args:
        message: what jsonargparse says.
        parser: the parser of the command.
        classes: the part of each kind that the command line or its config names.
    """
    message = " ".join(message.split())
    kind = re.search(r'Parser key "([\w.]+)"', message)
    option = re.search(r"Option '([\w.]+)' is not accepted", message)
    path = re.search(r"(?:class_path[ =]|dot import path string: )'?([\w.]+)", message)
    if kind and option and path:
        return _unknown_argument(kind[1], option[1], path[1], classes)
    if kind and kind[1] in TORCH and path:
        return _unknown_class(kind[1], path[1])
    message = _without_union(_in_words(message))
    unknown = re.search(r"(?<=unrecognized arguments: )--[\w.-]+", message)
    known = [option for action in parser._actions for option in action.option_strings]
    return message + (did_you_mean(unknown.group(), known) if unknown else "")


def _in_words(message: str) -> str:
    """Name the option rather than the parser's key, and types as a user knows them."""
    message = re.sub(
        r"""Parser key "(\w+)": Problem with given class_path '[^']+': Parser key "(\w+)\"""", r"--\1.\2", message
    )
    message = re.sub(r'Parser key "([\w.]+)"', lambda found: "--" + found[1].replace("_", "-"), message)
    message = re.sub(r"a typing\.Literal\[(.*?)\]", lambda found: f"one of {found[1]}", message)
    message = message.replace("a <class 'collections.abc.Sequence'>", 'a list, such as "[100, 50]"')
    return re.sub(r"a <class '(\w+)'>", r"a value of type \1", message)


def _without_union(message: str) -> str:
    """Say of a value for a part of one's own what is wrong with it, and not that the part is no subclass of ours."""
    found = re.match(
        r"(--\w+): Does not validate against any of the Union subtypes .*"
        r"Problem with given class_path '[\w.]+': --([\w.-]+): (.*?)(?= Given value type|$)",
        message,
    )
    return f"{found[1]}.{found[2].replace('-', '_')}: {found[3]}" if found else message


def _unknown_argument(kind: str, name: str, path: str, classes: dict[str, type]) -> str:
    part = classes.get(kind) or (find_part(kind, path) if kind in ROOMS else _torch_class(kind, path))
    if kind in ROOMS and part is ROOMS[kind][1]:
        return f"Expected --{kind} PART with --{kind}.{name}, an argument of the part. `pyro-vae parts` lists all."
    known = options_of(part) if part else []
    listed = ", ".join(f"--{kind}.{option}" for option in known) or "none"
    called = path.rpartition(".")[2]
    return f"{called} has no option --{kind}.{name}.{_near(f'--{kind}.', name, known)} It has {listed}."


def _near(prefix: str, name: str, known: Iterable[str]) -> str:
    near = did_you_mean(name, known)
    return near.replace("Did you mean ", f"Did you mean {prefix}")


def _torch_class(kind: str, path: str) -> type | None:
    return getattr(TORCH[kind][0], path.rpartition(".")[2], None) if kind in TORCH else None


def _unknown_class(kind: str, name: str) -> str:
    room, base = TORCH[kind]
    known = [
        k
        for k, v in vars(room).items()
        if isinstance(v, type) and issubclass(v, base) and v is not base and k[0] != "_"
    ]
    return f"Unknown {kind} {name!r}.{did_you_mean(name, known)} Known: {', '.join(known)}; or package.module.Class."
