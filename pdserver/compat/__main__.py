"""`python -m pdserver.compat SCRIPT ARGUMENT…` runs a script of Paddle Serving as it is."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

from pdserver import compat
from pdserver.handlers.pipeline import script
from pdserver.system.standard_streams import say


def main() -> None:
    """As Python runs a script; whatever it raises passes through."""
    if len(sys.argv) < 2:
        say("usage: python -m pdserver.compat web_service.py [argument …]", error=True)
        raise SystemExit(2)
    path = sys.argv[1]
    if not Path(path).is_file():
        say(f"pdserver: {path}: no such file: name the script, such as web_service.py", error=True)
        raise SystemExit(2)
    del sys.argv[0]
    sys.path[0] = str(Path(path).absolute().parent)
    script.import_first(compat.__name__)
    runpy.run_path(path, run_name="__main__")


if __name__ == "__main__":
    main()
