"""Runs: a directory, its config, and what the config comes to.

Downhill from a config to a run: ``config`` (typed settings), ``setup`` (the data, and what they choose), ``kinds`` (of
model) of ``parts`` (made to measure), ``result`` (to cite), ``run`` (the directory); ``registry``: parts by name.
"""

from pyro_vae.runs.run import Run as Run
