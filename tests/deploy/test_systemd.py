"""The unit for systemd."""

from __future__ import annotations

import os
import shutil
import subprocess
from configparser import RawConfigParser
from pathlib import Path

import pytest

from pdserver.configuration.server import Config
from tests.deploy.tools import ROOT
from tests.running import PDSERVER

UNIT = ROOT / "deploy" / "systemd" / "pdserver.service"
MOST_EXPOSED = 20
"""Of 100: what systemd calls OK begins at 50."""


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """With a command that this machine has, and its user."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is missing, from Debian's package systemd")
    text = UNIT.read_text().replace("/opt/pdserver/bin/pdserver", PDSERVER)
    copy = tmp_path / UNIT.name
    copy.write_text(text)
    return copy


def analyze(*words: object) -> subprocess.CompletedProcess[str]:
    command = ["systemd-analyze", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "SYSTEMD_LOG_LEVEL": "warning"})


def test_systemd_accepts_the_unit(unit: Path) -> None:
    done = analyze("verify", "--man=no", "--recursive-errors=no", unit)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_wrong_unit_is_noticed(unit: Path) -> None:
    unit.write_text(unit.read_text().replace("KillMode=mixed", "KillMode=both"))
    assert "kill mode" in analyze("verify", "--man=no", "--recursive-errors=no", unit).stderr


def test_the_unit_is_hardened(unit: Path) -> None:
    done = analyze("security", "--offline=yes", f"--threshold={MOST_EXPOSED}", "--no-pager", unit)
    assert done.returncode == 0, done.stdout


def test_the_unit_leaves_the_server_the_time_to_stop() -> None:
    parser = RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(UNIT)
    service = parser["Service"]
    assert service["Type"] == "notify"
    assert service["KillMode"] == "mixed"
    assert int(service["TimeoutStopSec"]) > Config(model_store=ROOT).stop_timeout_seconds + 10
    assert "--foreground" in service["ExecStart"]
