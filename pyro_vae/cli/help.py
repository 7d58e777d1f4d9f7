"""Help of the commands in few words: no types, no lists of classes."""

from __future__ import annotations

from argparse import SUPPRESS, Action
from typing import Any

from jsonargparse import ArgumentParser, DefaultHelpFormatter, Namespace

CLASSES = "optimizer", "scheduler"
"""Options whose values are classes of torch."""


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
        return f"{text} (default: {_in_words(default)})"

    def _get_default_metavar_for_optional(self, action: Action) -> str:
        return "CLASS" if action.dest in CLASSES else super()._get_default_metavar_for_optional(action)


def _in_words(default: Any) -> str:
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
