"""Distributions that torch and Pyro lack, or have in another form, as torch distributions.

``scalar``: of one number, their base class and log Gamma ratios. ``horseshoe``: the horseshoe and its integral.
``columns``: of a row of a table, and the support of each column.
"""
