"""Runs: a directory, its config, and what the config stands for.

Downhill from a config to a run: ``config`` (typed settings), ``registry`` (parts by name), ``loading`` (the
data), ``parts`` (made to measure), ``kinds`` (of model), ``building`` (model and guide), ``run`` (the directory).
"""

from pyro_vae.runs.run import Run as Run
