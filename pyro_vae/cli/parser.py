"""Reads the command line: names of parts to classes, files to settings, and mistakes to sentences."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentError, ArgumentParser, Namespace

from pyro_vae import __version__
from pyro_vae.cli.errors import check_argument, check_options, in_words
from pyro_vae.cli.options import Choices, Classes, Command, hide_part_help, make_parser
from pyro_vae.core.registry import Spec, dotted_name
from pyro_vae.runs.config import SETTINGS, Config, read_settings
from pyro_vae.runs.registry import REGISTRIES
from pyro_vae.runs.run import Run

DIRECTORY = ("out", "overwrite", "resume")
"""Settings of ``train`` that say where its run goes, and are no part of its config."""


NONE_AT_ALL = frozenset({"scheduler"})
"""Kinds of part of which null means that there is to be none, and not the default."""


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
        commands: by name.
        argv: the command line after the program's name.

    Raises:
        ValueError: for an unknown option, value or part.
    """
    argv, classes = resolve_parts(argv)
    parser, made = build_parsers(commands, classes)
    if argv and argv[0] in made and not {"-h", "--help"}.intersection(argv):
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
        ValueError: for an unknown part, naming the nearest, or a file or directory without a config.
    """
    argv = [piece for token in argv for piece in (token.split("=", 1) if token.startswith("--") else [token])]
    argv = [token.removesuffix(".class_path") if token.startswith("--") else token for token in argv]
    absent = _take_null(argv)
    classes = _name_classes(argv)
    settings = _settings_of(argv)
    if settings is not None:
        kept = {name: value for name, value in settings.items() if name not in {*classes, *absent}}
        for kind in [name for name in kept if name in REGISTRIES and kept[name] is not None]:
            spec = Spec.of(kept[kind])
            classes[kind] = REGISTRIES[kind].find(spec.class_path)
            for argument in spec.init_args:
                check_argument(argument, REGISTRIES[kind], classes[kind])
            kept[kind] = {"class_path": dotted_name(classes[kind]), "init_args": dict(spec.init_args)}
        argv[1:1] = ["--config", yaml.safe_dump(kept)]
    for kind in NONE_AT_ALL.difference(classes):
        if kind in absent or (settings is not None and settings.get(kind, "") is None):
            classes[kind] = type(None)
    return argv, classes


def _take_null(argv: list[str]) -> list[str]:
    """Take ``--KIND null`` out of a command line; return those kinds, of which the config's part is not wanted."""
    places = [i for i, (option, value) in enumerate(pairwise(argv)) if option[2:] in REGISTRIES and value == "null"]
    absent = [argv[i][2:] for i in places]
    for i in reversed(places):
        del argv[i : i + 2]
    return absent


def _name_classes(argv: list[str]) -> Classes:
    """Return the classes that options name, the last of each kind, and put their paths in the place of their names."""
    classes: Classes = {}
    for i, (option, value) in reversed(list(enumerate(pairwise(argv)))):
        kind = option.removeprefix("--").removesuffix(".help") if option.startswith("--") else ""
        if kind not in REGISTRIES or value.startswith("-"):
            continue
        if kind in classes:
            del argv[i : i + 2]
        else:
            classes[kind] = REGISTRIES[kind].find(value)
            argv[i + 1] = dotted_name(classes[kind])
    return classes


def _settings_of(argv: list[str]) -> dict[str, Any] | None:
    """Take --config FILE out of a command line; return the settings of --resume DIR and of the files, in this order."""
    found = [Run(argv[argv.index("--resume") + 1]).config().as_dict()] if "--resume" in argv[:-1] else []
    while "--config" in argv[:-1]:
        place = argv.index("--config")
        found.append(_checked(read_settings(Path(argv[place + 1]))))
        del argv[place : place + 2]
    return {name: value for settings in found for name, value in settings.items()} if found else None


def _checked(given: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a file, refusing unknown ones; --print_config writes those of the directory too."""
    of_config = {name: value for name, value in given.items() if name not in DIRECTORY}
    every = Config.from_dict(of_config).as_dict()
    return {name: every.get(name, value) for name, value in given.items()}


def config_of(options: Namespace) -> Config:
    """Return the config that the options of ``train`` stand for, its parts by plain name where they are ours."""
    values = {name: value for name, value in options.as_dict().items() if name in SETTINGS}
    for kind in values.keys() & REGISTRIES.keys():
        if values[kind] is not None:
            registry, spec = REGISTRIES[kind], Spec.of(values[kind])
            values[kind] = {**spec.as_dict(), "class_path": registry.name_of(registry.find(spec.class_path))}
    return Config.from_dict(values)
