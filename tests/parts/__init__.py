"""The tables of parts, one line each, and what every part of a kind must satisfy."""
