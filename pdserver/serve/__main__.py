"""`python -m pdserver.serve` is `pdserver serve`."""

import sys

from pdserver.cli import main

if __name__ == "__main__":
    sys.exit(main(["serve", *sys.argv[1:]]))
