"""Variational autoencoders as explicit Pyro programs.

The generative model p(z) p(x|z) lives in ``pyro_vae.models``, the guide q(z|x), the objectives and the
estimates of log p(x) in ``pyro_vae.inference``; this package has the data, the runs and the command line.
"""

from pyro_vae.data import Splits as Splits
from pyro_vae.data import load_data as load_data

__version__ = "0.1.0"
