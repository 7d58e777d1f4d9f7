"""A program recorded as a graph of tensor operations, changed, compiled, and compared with the program.

``record`` makes the graph, ``rewrites`` and ``splitting`` make it cheaper with the tools in ``graph``, ``compile``
compiles and compares; ``worthwhile`` is the rule of when that pays, ``precision`` runs layers in lower precision.
"""
