"""The command ``pyro-vae``: a parser, errors in words of the command line, and one file a command."""

from pyro_vae.cli.train import main as main
