"""What all rooms stand on.

``checks`` of input, ``files`` that are whole or absent, ``registry``: parts by name. ``modules``: parameters as Pyro
sites, networks from factories. ``distributions`` as parts, ``flows``, ``simplex``: distributions that priors and guides
share; ``conditioning``: labels and covariates as inputs of networks.
"""
