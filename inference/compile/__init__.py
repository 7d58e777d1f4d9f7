"""A program recorded as a graph of tensor operations, changed, compiled, and compared with the program."""
