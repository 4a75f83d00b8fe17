"""What handlers written for TorchServe import, answered with this server's own classes.

Last on a worker's sys.path: where TorchServe itself is installed, or an archive has a module `ts`, that is found first.
"""

from .version import __version__ as __version__
