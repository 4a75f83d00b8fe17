"""Which engine runs a model: measured once on this machine, answers compared, and remembered.

It knows engines as what loads, runs named arrays and closes, and nothing of the model.
"""
