"""The version of TorchServe that `ts` stands for."""

__version__ = "0.12.0"
