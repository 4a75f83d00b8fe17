"""The modules that TorchServe's handlers import, made of this server's own classes.

This folder is last on a worker's sys.path. TorchServe itself, or an archive's own module `ts`, is found first.
"""

from .version import __version__ as __version__
