"""Holds `ts`, where TorchServe's handlers find what they import. Only workers put this folder on sys.path."""
