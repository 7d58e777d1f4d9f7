"""Runs: a directory, its config, and what the config stands for.

``run`` is the directory; ``registry`` finds parts by name; ``kinds`` are the kinds of model.
"""

from pyro_vae.runs.run import Run as Run
