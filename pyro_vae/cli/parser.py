"""The command line, read: names of parts become classes, settings become options, mistakes are said in its words."""

from __future__ import annotations

from argparse import SUPPRESS, Action
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any, get_type_hints

import yaml
from jsonargparse import ArgumentError, ArgumentParser, DefaultHelpFormatter, Namespace

from pyro_vae import __version__
from pyro_vae.cli.errors import check_options, in_words
from pyro_vae.core.registry import Spec
from pyro_vae.runs.config import SETTINGS, Config, TrainingConfig, read_settings
from pyro_vae.runs.kinds import REGISTRIES
from pyro_vae.runs.run import Run

DIRECTORY = ("out", "overwrite", "resume")
"""Settings of ``train`` that say where its run goes, and are no part of its config."""
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
        classes: those that are named.
        defaults: what the command takes where none is named, None where there is none.
    """

    def __init__(self, classes: Classes, defaults: Mapping[str, Spec | None]) -> None:
        self.classes, self.defaults = classes, defaults

    def part(self, kind: str) -> type | None:
        """Return the class of a kind of part, None where none is named and there is no default."""
        default = self.defaults.get(kind)
        return self.classes.get(kind, None if default is None else REGISTRIES[kind].find(default.class_path))

    def start(self, kind: str) -> dict[str, Any] | None:
        """Return what the parser starts from: the arguments of a default are its own, but for a learning rate."""
        part, default = self.part(kind), self.defaults.get(kind)
        if part is None:
            return None
        given = dict(default.init_args) if default else {}
        if default is None or REGISTRIES[kind].find(default.class_path) is not part:
            given = {name: value for name, value in given.items() if name == "lr" in REGISTRIES[kind].options(part)}
        return {"class_path": import_path(part), "init_args": given}


def make_parser(description: str, **settings: Any) -> ArgumentParser:
    """Return a parser that raises what is wrong, takes no abbreviations and helps in few words."""
    return ArgumentParser(
        description=description, exit_on_error=False, allow_abbrev=False, formatter_class=ShortHelp, **settings
    )


def build_parsers(
    commands: Mapping[str, Command], classes: Classes
) -> tuple[ArgumentParser, dict[str, ArgumentParser]]:
    """Return the parser of the whole command line, and those of its commands by name.

    Args:
        commands: by name.
        classes: the parts that are named, whose arguments are options.
    """
    parser = make_parser(
        "Variational autoencoders as Pyro programs: train one, estimate log p(x) with its uncertainty.",
        prog="pyro-vae",
        version=__version__,
    )
    made = {name: command.make(Choices(classes, command.defaults(classes))) for name, command in commands.items()}
    subcommands = parser.add_subcommands(title="commands", description="pyro-vae COMMAND --help says more.")
    for name, of_command in made.items():
        hide_part_help(of_command)
        subcommands.add_subcommand(name, of_command, help=(of_command.description or "").split(".")[0])
    return parser, made


def parse(commands: Mapping[str, Command], argv: list[str]) -> tuple[str, Namespace]:
    """Return the command that a command line names, and its options.

    Args:
        commands: as in ``build_parsers``.
        argv: the command line after the program's name.

    Raises:
        ValueError: for an option, a value or a part that there is not.
    """
    argv, classes = resolve_parts(argv)
    parser, made = build_parsers(commands, classes)
    if argv and argv[0] in made:
        choices = Choices(classes, commands[argv[0]].defaults(classes))
        check_options(argv[1:], made[argv[0]], choices.part)
    try:
        options = parser.parse_args(argv)
    except ArgumentError as error:
        raise ValueError(in_words(str(error))) from error
    return options.subcommand, options[options.subcommand]


def resolve_parts(argv: list[str]) -> tuple[list[str], Classes]:
    """Replace names of parts by class paths, and files of settings by the settings; also return the classes.

    ``--resume DIR`` brings the config of that run. A part that the command line names takes the place of the config's
    with all its arguments.

    Raises:
        ValueError: for a part that there is not, naming the nearest, or a file or directory without a config.
    """
    argv = [piece for token in argv for piece in (token.split("=", 1) if token.startswith("--") else [token])]
    absent = _take_null(argv)
    classes = _name_classes(argv)
    settings = _settings_of(argv)
    if settings is not None:
        kept = {name: value for name, value in settings.items() if name not in {*classes, *absent}}
        for kind in [name for name in kept if name in REGISTRIES and kept[name] is not None]:
            spec = Spec.of(kept[kind])
            classes[kind] = REGISTRIES[kind].find(spec.class_path)
            kept[kind] = {"class_path": import_path(classes[kind]), "init_args": dict(spec.init_args)}
        argv[1:1] = ["--config", yaml.safe_dump(kept)]
    return argv, classes


def _take_null(argv: list[str]) -> list[str]:
    """Take ``--KIND null`` out of a command line; return those kinds, of which the config's part is not wanted."""
    places = [i for i, (option, value) in enumerate(pairwise(argv)) if option[2:] in REGISTRIES and value == "null"]
    absent = [argv[i][2:] for i in places]
    for i in reversed(places):
        del argv[i : i + 2]
    return absent


def _name_classes(argv: list[str]) -> Classes:
    """Return the classes that options name, and put their paths in the place of their names."""
    classes: Classes = {}
    for i, (option, value) in list(enumerate(pairwise(argv))):
        kind = option.removeprefix("--").removesuffix(".help") if option.startswith("--") else ""
        if kind in REGISTRIES and not value.startswith("-"):
            classes[kind] = REGISTRIES[kind].find(value)
            argv[i + 1] = import_path(classes[kind])
    return classes


def _settings_of(argv: list[str]) -> dict[str, Any] | None:
    """Take --config FILE out of a command line; return its settings, or those of --resume DIR, None without either."""
    settings = None
    if "--resume" in argv[:-1]:
        settings = Run(argv[argv.index("--resume") + 1]).config().as_dict()
    while "--config" in argv[:-1]:
        place = argv.index("--config")
        settings = _checked(read_settings(Path(argv[place + 1])))
        del argv[place : place + 2]
    return settings


def _checked(given: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a file, refusing what is none; --print_config writes those of the directory too."""
    of_config = {name: value for name, value in given.items() if name not in DIRECTORY}
    every = Config.from_dict(of_config).as_dict()
    return {name: every.get(name, value) for name, value in given.items()}


def import_path(part: type) -> str:
    """Return the dotted name by which a class is imported."""
    return f"{part.__module__}.{part.__qualname__}"


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


def config_of(options: Namespace) -> Config:
    """Return the config that the options of ``train`` stand for, its parts by plain name where they are ours."""
    values = {name: value for name, value in options.as_dict().items() if name in SETTINGS}
    for kind in values.keys() & REGISTRIES.keys():
        if values[kind] is not None:
            registry, spec = REGISTRIES[kind], Spec.of(values[kind])
            values[kind] = {**spec.as_dict(), "class_path": registry.name_of(registry.find(spec.class_path))}
    return Config.from_dict(values)


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
