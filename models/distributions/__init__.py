"""Distributions that torch and Pyro lack, or have in another form, as torch distributions.

``scalar``: of one number, their base class and log Gamma ratios. ``horseshoe``: the horseshoe and its integral.
``double``: scored in float64, where float32 cancels. ``columns``: of a row of a table, and the support of each column.
"""
