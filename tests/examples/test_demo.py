"""`make demo ONCE=1`: real scans through a real server; it ends by itself and leaves nothing behind."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import socket
import subprocess
import sys
import zipfile
from pathlib import Path

import psutil
import pytest

from tests.examples.conftest import ROOT


def demo(folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "examples/demo.py", "--folder", str(folder), *flags]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=120)


def processes_in(folder: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter(["cwd"]):
        cwd = process.info["cwd"]
        if cwd and Path(cwd) == folder:
            found.append(process)
    return found


@pytest.fixture
def folder(built: Path, tmp_path: Path) -> Path:
    """The demo's folder, with archives made a moment ago."""
    shutil.copytree(built / "demo/store", tmp_path / "store")
    return tmp_path


def check_report(printed: str) -> None:
    measured = re.search(r"(\d+) of 599 recognised", printed)
    assert measured is not None, printed
    assert int(measured[1]) / 599 >= 0.97
    assert printed.count("% sure") >= 12, "a dozen scans are shown"
    assert "\x1b" not in printed, "no escape codes in a pipe"


def test_once_it_recognises_the_held_out_digits_and_ends(folder: Path) -> None:
    done = demo(folder, "--once", "--port", "0")
    assert done.returncode == 0, done.stdout + done.stderr
    check_report(done.stdout)
    assert "curl" not in done.stdout, "nothing is left that could be tried"
    assert processes_in(folder) == []


def test_it_shows_what_to_try_and_serves_the_committed_archive(folder: Path) -> None:
    shutil.copy(ROOT / "model_store/digits.pdar", folder / "store")
    command = [sys.executable, "-u", "examples/demo.py", "--folder", str(folder), "--port", "0"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True) as serving:
        assert serving.stdout is not None
        printed = ""
        for line in serving.stdout:
            printed += line
            if "/predictions/digits -T" in line:
                break
        else:
            pytest.fail(printed)
        answer = subprocess.run(shlex.split(line), cwd=ROOT, capture_output=True, text=True, check=True).stdout
        serving.terminate()
        serving.stdout.read()
    check_report(printed)
    assert next(iter(json.loads(answer))) == "seven"
    assert processes_in(folder) == []


def test_the_demo_needs_no_tools_of_developers(tmp_path: Path) -> None:
    """The list of what `make demo` installs in a fresh checkout."""
    command = ["make", "--no-print-directory", "-n", f"VENV={tmp_path}", "demo", "ONCE=1"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert re.findall(r"--editable '\.\[(.*)\]'", said) == ["cpu,demo"]


def test_it_says_what_is_wrong_when_the_server_cannot_start(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    done = demo(tmp_path, "--once", "--port", "0")
    assert done.returncode == 1
    assert "digits.pdar" in done.stderr
    assert "Traceback" not in done.stderr
    assert processes_in(tmp_path) == []


def test_a_port_in_use_is_named_with_the_way_out(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = demo(tmp_path, "--once", "--port", str(port))
    assert done.returncode == 1
    assert f"port {port}" in done.stderr
    assert "make demo PORT=" in done.stderr


def test_the_committed_archive_is_small_and_up_to_date(built: Path) -> None:
    """All but the weights, which come out a little differently on other processors."""
    committed = ROOT / "model_store/digits.pdar"
    assert committed.stat().st_size < 300_000
    with zipfile.ZipFile(committed) as old, zipfile.ZipFile(built / "demo/store/digits.pdar") as new:
        assert old.namelist() == new.namelist()
        for name in ("model-config.yaml", "index_to_name.json"):
            assert old.read(name) == new.read(name), f"{name}: pack model_store/digits.pdar again"
        was, is_now = (json.loads(archive.read("PDAR-INF/MANIFEST.json")) for archive in (old, new))
    assert was.keys() == is_now.keys()
    assert was["signature"] == is_now["signature"]
