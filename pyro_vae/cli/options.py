"""The options of the commands: a field of the config, or a part with the arguments of the class that is named."""

from __future__ import annotations

from argparse import SUPPRESS, Action
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, get_type_hints

from jsonargparse import ArgumentParser, DefaultHelpFormatter, Namespace

from pyro_vae.core.registry import Spec, dotted_name
from pyro_vae.runs.config import TrainingConfig
from pyro_vae.runs.registry import REGISTRIES

TORCH = ("optimizer", "scheduler")
"""Kinds of part whose classes are torch's."""
Classes = dict[str, type]
"""The class of each kind of part that a command line, or the config that it names, asks for."""


@dataclass(frozen=True)
class Command:
    """A command: its parser, what it does, and its parts.

    Attributes:
        make: returns its parser, with options for the arguments of the parts that it runs with.
        run: carries it out.
        defaults: returns the part of each kind where none is named, given the classes of those that are.
    """

    make: Callable[[Choices], ArgumentParser]
    run: Callable[[Namespace], None]
    defaults: Callable[[Classes], Mapping[str, Spec | None]] = lambda classes: {}


class Choices:
    """The part of each kind that a command runs with: named on its line or in its config, or its default.

    Args:
        classes: those that are named, ``NoneType`` where there is to be none.
        defaults: what the command takes where none is named, None where there is none.
    """

    def __init__(self, classes: Classes, defaults: Mapping[str, Spec | None]) -> None:
        self.classes, self.defaults = classes, defaults

    def part(self, kind: str) -> type | None:
        """Return the class of a kind of part, None where none is named and there is no default."""
        default = self.defaults.get(kind)
        if self.classes.get(kind) is type(None):
            return None
        return self.classes.get(kind, None if default is None else REGISTRIES[kind].find(default.class_path))

    def start(self, kind: str) -> dict[str, Any] | None:
        """Return what the parser starts from: the arguments of a default are its own, but for a learning rate."""
        registry, part, default = REGISTRIES[kind], self.part(kind), self.defaults.get(kind)
        if part is None:
            return None
        given = dict(default.init_args) if default else {}
        if default is None or registry.find(default.class_path) is not part:
            shared = registry.always_shown.intersection(registry.options(part))
            given = {name: value for name, value in given.items() if name in shared}
        return {"class_path": dotted_name(part), "init_args": given}


def make_parser(description: str, **settings: Any) -> ArgumentParser:
    """Return a parser that raises what is wrong, takes no abbreviations and helps in few words."""
    return ArgumentParser(
        description=description, exit_on_error=False, allow_abbrev=False, formatter_class=ShortHelp, **settings
    )


def add_settings(group: Any, settings: type, choices: Choices) -> None:
    """Add an option for each field of a class of settings; a part brings options for its arguments.

    Args:
        group: of a parser.
        settings: a dataclass of ``runs.config``.
        choices: the parts.
    """
    for setting in fields(settings):
        if "part" in setting.metadata:
            add_part(group, setting.name, choices)
        else:
            add_setting(group, settings, setting.name)


def add_setting(group: Any, settings: type, name: str, **how: Any) -> None:
    """Add the option of one field.

    Args:
        group: of a parser.
        settings: the dataclass.
        name: the field.
        how: what is to be otherwise than the field says, such as its help.
    """
    setting = next(f for f in fields(settings) if f.name == name)
    type_ = int if "nargs" in setting.metadata else get_type_hints(settings)[name]
    option = f"--{name.replace('_', '-')}"
    group.add_argument(option, **{"type": type_, "default": setting.default, **setting.metadata, **how})


def add_part(group: Any, kind: str, choices: Choices) -> None:
    """Add the option --KIND, which names a part, and one for each argument of the class that is named."""
    registry, default, part = REGISTRIES[kind], choices.defaults.get(kind), choices.part(kind)
    shown = "what the values of the data call for" if kind == "likelihood" else default and default.name
    group.add_subclass_arguments(
        part or registry.base,
        kind,
        as_group=False,
        default=choices.start(kind),
        required=False,
        instantiate=False,
        skip=set(registry.skipped(part or registry.base)),
        metavar="CLASS" if kind in TORCH else "PART",
        help=f"{registry.what} (default: {shown})" if shown else registry.what,
    )


def add_device(group: Any, what: str) -> None:
    """Add the options that say where and how ``what`` is computed."""
    for name in ("device", "compile", "precision"):
        setting = next(f for f in fields(TrainingConfig) if f.name == name)
        add_setting(group, TrainingConfig, name, help=setting.metadata["help"].replace("training", what))


def add_data_root(parser: ArgumentParser) -> None:
    """Add the option that says where a run's data have moved."""
    parser.add_argument("--data-root", type=str | None, default=None, help="folder of data sets, if it has moved")


class ShortHelp(DefaultHelpFormatter):
    """Shows what an option does and its default, where there is one."""

    def _get_help_string(self, action: Action) -> str:
        text = action.help or ""
        default = action.default
        if (
            not action.option_strings
            or "(default:" in text
            or default is None
            or default is False
            or default == SUPPRESS
        ):
            return text
        return f"{text} (default: {_shown(default)})"

    def _get_default_metavar_for_optional(self, action: Action) -> str:
        return "CLASS" if action.dest in TORCH else super()._get_default_metavar_for_optional(action)


def _shown(default: Any) -> str:
    if isinstance(default, dict | Namespace):
        return str(default["class_path"]).rpartition(".")[2]
    return str(default).lower() if isinstance(default, bool) else f"{default}"


def hide_part_help(parser: ArgumentParser) -> None:
    """Leave the options --PART.help out of a parser's help, as a group says once how to ask; shorten --print_config."""
    for action in parser._actions:
        if action.option_strings and action.option_strings[0].endswith(".help"):
            action.help = SUPPRESS
        elif action.option_strings and action.option_strings[0] == "--print_config":
            action.help = "print the settings as a config.yaml, and stop"
