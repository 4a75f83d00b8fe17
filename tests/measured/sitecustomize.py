"""Has our programs measure their coverage when tests start them, and nothing else: pip and Paddle's exports take long.

The fixture that puts this folder on PYTHONPATH is in `tests/conftest.py`. Workers see no variable but those whose names
begin with PYTHON, so coverage's own one is set here.
"""

import os
import sys
from pathlib import PurePath

_CONFIG = "COVERAGE_PROCESS_CONFIG"
_OURS = ("pdserver", "pdarchiver", "pd-model-archiver")


def _is_ours() -> bool:
    """Whether this is `python -m pdserver…`, or one of our commands."""
    return any(PurePath(word).name.split(".")[0] in _OURS for word in sys.orig_argv[1:5])


if _CONFIG not in os.environ and "PYTHON_COVERAGE" in os.environ and _is_ours():
    try:
        import coverage
    except ImportError:  # a model's own environment does without
        pass
    else:
        os.environ[_CONFIG] = os.environ["PYTHON_COVERAGE"]
        coverage.process_startup()
        del os.environ[_CONFIG]
