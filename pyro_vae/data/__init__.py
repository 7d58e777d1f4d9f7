"""Data: names, files, tables and arrays to ``Splits``, each with the protocol that belongs to its results.

``load`` has ``load_data``, ``splits`` what it returns; ``files`` and ``mnist`` read. ``binarisation`` makes grey levels
binary or numbers them, ``tables`` encodes columns of different kinds, ``labels`` are classes or covariates y.
"""

from pyro_vae.data.binarisation import BINARISATIONS as BINARISATIONS
from pyro_vae.data.load import load_data as load_data
from pyro_vae.data.splits import SPLIT_NAMES as SPLIT_NAMES
from pyro_vae.data.splits import Splits as Splits
