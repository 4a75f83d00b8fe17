"""The model server for PaddlePaddle."""

from importlib.metadata import version

__version__ = version("pdserver")
