"""Has the coverage of workers measured too.

They see the variables whose names begin with PYTHON, not the one by which coverage starts itself in other processes.
`tests/conftest.py` puts this folder on PYTHONPATH when coverage is measured.
"""

import os

_CONFIG = "COVERAGE_PROCESS_CONFIG"

if _CONFIG not in os.environ and "PYTHON_COVERAGE" in os.environ:
    try:
        import coverage
    except ImportError:  # a model's own environment does without
        pass
    else:
        os.environ[_CONFIG] = os.environ["PYTHON_COVERAGE"]
        coverage.process_startup()
        del os.environ[_CONFIG]
