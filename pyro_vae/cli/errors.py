"""What to say of a command line that cannot be understood: the option that was meant, and the type of a value."""

from __future__ import annotations

import re
from collections.abc import Callable

from jsonargparse import ArgumentParser

from pyro_vae.core.checks import did_you_mean
from pyro_vae.core.registry import Registry
from pyro_vae.runs.registry import REGISTRIES

OPTIONS = {"load_data(..., missing=True) and VAE(..., missing=True)": "--missing true"}
"""What a message of the library tells a Python program to write, and the option that does the same here."""


def in_options(message: str) -> str:
    """Return a message of the library with options in the place of Python arguments."""
    for python, option in OPTIONS.items():
        message = message.replace(python, option)
    return message


def check_options(argv: list[str], parser: ArgumentParser, part_of: Callable[[str], type | None]) -> None:
    """Refuse options that the command, or the part that it names, does not have.

    Args:
        argv: the command line after the command.
        parser: that of the command.
        part_of: returns the class of a kind of part, None where none is named.

    Raises:
        ValueError: naming the nearest option.
    """
    known = [option for action in parser._actions for option in action.option_strings]
    for token in argv:
        if not token.startswith("--") or token == "--" or token in known:
            continue
        option, _, argument = token.partition(".")
        if option not in known:
            raise ValueError(f"Unknown option {token}.{did_you_mean(token, known)}")
        registry = REGISTRIES.get(option.removeprefix("--"))
        if registry is not None:
            check_argument(argument.removeprefix("init_args."), registry, part_of(registry.kind))


def check_argument(argument: str, registry: Registry, part: type | None) -> None:
    """Refuse an argument that a part does not have, or that of no part at all.

    Args:
        argument: its name, with a key behind a dot where it is a mapping.
        registry: the kind of part.
        part: the class, None where none is named.

    Raises:
        ValueError: naming the nearest argument.
    """
    if part is None:
        raise ValueError(
            f"Expected --{registry.kind} PART with --{registry.kind}.{argument}, an argument of the part. `pyro-vae "
            "parts` lists all."
        )
    options = registry.options(part)
    if argument.partition(".")[0] not in options and not registry.takes_any(part):
        near = did_you_mean(argument, options).replace("Did you mean ", f"Did you mean --{registry.kind}.")
        listed = ", ".join(f"--{registry.kind}.{option}" for option in options) or "none"
        raise ValueError(f"{part.__name__} has no option --{registry.kind}.{argument}.{near} It has {listed}.")


def in_words(message: str) -> str:
    """Return what jsonargparse says of a value's type with the option for the parser's key, and types in words."""
    message = " ".join(message.split())
    message = re.sub(
        r"""Parser key "(\w+)": Problem with given class_path '[^']+': Parser key "(\w+)\"""", r"--\1.\2", message
    )
    message = re.sub(r'Parser key "([\w.]+)"', lambda found: "--" + found[1].replace("_", "-"), message)
    message = re.sub(r"a typing\.Literal\[(.*?)\]", lambda found: f"one of {found[1]}", message)
    message = message.replace("a <class 'collections.abc.Sequence'>", 'a list, such as "[100, 50]"')
    return re.sub(r"a <class '(\w+)'>", r"a value of type \1", message)
