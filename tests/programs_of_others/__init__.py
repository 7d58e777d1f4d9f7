"""Programs as other people publish them, in words of our own, each with what is known of it without Pyro.

A file holds a family of programs; ``formulas`` what they are held against. ``table`` lists them with what each
should do where it does not do everything, and ``test_contracts`` takes them through the library.
"""
