"""The TorchServe whose names these are."""

__version__ = "0.12.0"
