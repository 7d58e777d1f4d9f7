"""The command ``pyro-vae``: ``parser`` reads its line, ``errors`` says what is wrong, and each command has a file.

pyro-vae train | evaluate | compare | report | sample | impute | parts
"""

from __future__ import annotations

import os
import sys
from argparse import ArgumentError
from pathlib import Path


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit status.

    Users' mistakes end in one line on standard error and status 2, an interruption in status 130.
    """
    argv = sys.argv[1:] if argv is None else argv
    from pyro_vae.cli.commands import COMMANDS  # before the working directory can stand for what they import
    from pyro_vae.cli.errors import in_options
    from pyro_vae.cli.parser import parse

    sys.path.insert(0, str(Path.cwd()))  # parts of the user's own are found there
    try:
        command, options = parse(COMMANDS, argv or ["--help"])
        COMMANDS[command].run(options)
    except (ValueError, FloatingPointError, ArgumentError) as error:
        print(f"pyro-vae: error: {in_options(' '.join(str(error).split()))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interruption:
        print(f"\n{interruption or 'Interrupted.'}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read the output, such as `head`, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    finally:
        sys.path.pop(0)
    return 0
