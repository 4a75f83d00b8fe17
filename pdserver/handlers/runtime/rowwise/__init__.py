"""Whether a model works row by row, proven from its operations.

A model may be given the rows of several clients at once only when row i of each of its outputs comes of row i of its
inputs and of nothing else. Each operation's rule says where the rows are in what it makes, when it is known where they
are in what it takes. What no rule is written for mixes rows: nothing is guessed.
"""
