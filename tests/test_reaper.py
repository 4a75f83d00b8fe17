"""What tests start ends with them, also when they are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil

from tests.running import eventually, lives

SLOW = """
import subprocess, sys, time
def test_slow():
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    open({path!r}, "w").write(str(child.pid))
    time.sleep(600)
"""


def test_what_tests_have_started_ends_when_they_are_killed(tmp_path: Path) -> None:
    note, root = tmp_path / "pid", Path(__file__).parent.parent
    (tmp_path / "test_slow.py").write_text(SLOW.format(path=str(note)))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.conftest", "-p", "no:cacheprovider", str(tmp_path)]
    with subprocess.Popen(command, cwd=root, start_new_session=True, stdout=subprocess.DEVNULL) as tests:
        eventually(lambda: note.exists() and note.read_text())
        child = psutil.Process(int(note.read_text()))
        os.kill(tests.pid, signal.SIGKILL)
    eventually(lambda: not lives(child))
