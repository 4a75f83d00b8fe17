"""Why a process did not start, in a line."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pdserver.cluster.reasons import reason

OWN = "from pdserver.errors import Unavailable\nraise Unavailable('the disk is full: remove something')"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("def (", "SyntaxError: invalid syntax (<string>, line 1)"),
        ("\nimport nothing", "ModuleNotFoundError: No module named 'nothing' (<string>, line 2)"),
        ("try:\n 1/0\nfinally:\n raise OSError(5, 'no')", "OSError: [Errno 5] no (<string>, line 4)"),
        (OWN, "the disk is full: remove something"),
        ("exit('pdserver: the port is taken')", "pdserver: the port is taken"),
        ("", ""),
    ],
    ids=["syntax", "dependency", "two errors", "own error", "plain words", "nothing"],
)
def test_a_stack_trace_is_cut_to_what_one_needs(code: str, words: str) -> None:
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr
    assert reason(said) == words
