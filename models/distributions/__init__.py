"""Distributions that torch and Pyro lack, or have in another form, as torch distributions."""
