"""What all rooms stand on.

``checks`` of input, ``files`` that are whole or absent, ``modules``: parameters as Pyro sites, networks from factories.
``distributions`` as parts, ``flows``, ``simplex``; ``conditioning``: labels and covariates as inputs of networks.
"""
