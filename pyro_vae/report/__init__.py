"""The report of a run: arrays to figures to one HTML page."""
