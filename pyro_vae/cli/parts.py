"""The command parts: what can be plugged in, one line each, or one part's formula, arguments and options."""

from __future__ import annotations

import inspect
from importlib.util import find_spec
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace
from torch import nn

from pyro_vae.cli.options import TORCH, Choices, make_parser
from pyro_vae.core.checks import did_you_mean
from pyro_vae.core.flows import FLOW_KINDS
from pyro_vae.core.registry import OURS, find_class, load_module
from pyro_vae.runs.registry import REGISTRIES

LISTED = {kind: registry for kind, registry in REGISTRIES.items() if kind not in TORCH}
"""The kinds that are this library's; of torch's optimizers torch tells."""


def make(choices: Choices) -> ArgumentParser:
    """Return the parser of the command."""
    parser = make_parser("List what can be plugged in, or show one part's formula and arguments.")
    parser.add_argument(
        "name",
        type=str,
        nargs="?",
        help="a part, such as IWAE; a class of yours as package.module.Class, or its module",
    )
    return parser


def run(options: Namespace) -> None:
    """Print the list, or the description of one part."""
    print(describe_part(options.name) if options.name else list_parts())


def list_parts() -> str:
    """Return everything that can be plugged in, one line each."""
    lines = []
    for kind, registry in LISTED.items():
        lines.append(f"{kind}s")
        lines += [f"  {name:<22} {_summary(part)}" for name, part in registry.known().items()]
    lines.append("kinds of flow (--prior Flow --prior.kind KIND, --guide Flow --guide.kind KIND)")
    lines += [f"  {kind:<22} {what}" for kind, what in FLOW_KINDS.items()]
    return "\n".join(lines)


def describe_part(name: str) -> str:
    """Return a part's signature, docstring and options, of each kind that has one so named; or a module's own parts.

    Args:
        name: that of a part shipped here, the dotted one of a class, or that of a module.

    Raises:
        ValueError: if no part has that name, or the module holds none.
    """
    every = [(known, kind, part) for kind, registry in LISTED.items() for known, part in registry.known().items()]
    plain = name.rpartition(".")[2] if name.startswith(OURS) else name
    found = [entry for entry in every if entry[0].lower() == plain.lower()]
    if found:
        return "\n\n\n".join(_described(*entry) for entry in found)
    if (own := parts_in(name)) is not None:
        return _list_module(name, own)
    if "." in name:
        part = find_class(name, f"part {name!r}")
        return "\n\n\n".join(_described(name, kind, part) for kind in kinds_of(part) or ["part"])
    near = did_you_mean(name, [known for known, _, _ in every] + [path.stem for path in Path().glob("*.py")])
    raise ValueError(f"Unknown part {name!r}.{near} `pyro-vae parts` lists all.")


def kinds_of(part: type) -> list[str]:
    """Return the kinds of part that a class can be, by its base class or else by what it is called with."""
    by_base = [kind for kind, r in LISTED.items() if issubclass(part, (r.base, *set(r.accepts) - {nn.Module}))]
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


def parts_in(name: str) -> dict[str, type] | None:
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
    return {known: part for known, part in own.items() if not inspect.isabstract(part) and kinds_of(part)}


def _list_module(name: str, parts: dict[str, type]) -> str:
    if not parts:
        raise ValueError(
            f"{name} holds no part: no class with a forward() that returns a distribution, made with dim or "
            "event_shape, and no network, made with in_shape and out_features."
        )
    lines = [f"  {known:<22} {'/'.join(kinds_of(part))}: {_summary(part)}" for known, part in parts.items()]
    return "\n".join([f"{name} (as --KIND {name}.NAME)", *lines])


def _described(name: str, kind: str, part: type) -> str:
    named = LISTED[kind].options(part) if kind in LISTED else []
    options = " ".join(f"--{kind}.{option}" for option in named)
    lines = [f"{name}{_signature(part)}: --{kind} {name}", _doc(part) or "No docstring."]
    return "\n\n".join([*lines, f"Options: {options}"] if options else lines)


def _doc(part: type) -> str:
    """Return a class's own docstring, none that it inherits."""
    return inspect.cleandoc(part.__doc__ or "")


def _signature(part: type) -> str:
    """Return a part's arguments and their defaults, without annotations, a class by its name."""
    parameters = [p.replace(annotation=p.empty) for p in inspect.signature(part).parameters.values()]
    shown = str(inspect.Signature(parameters))
    for value in (p.default for p in parameters):
        if isinstance(value, type) and value is not inspect.Parameter.empty:
            shown = shown.replace(repr(value), value.__name__)
    return shown


def _summary(part: type) -> str:
    first = _doc(part).split("\n\n")[0]
    return " ".join(first.split()).split(". ")[0][:120]
