"""A log file is rotated, found again and written whatever becomes of it."""

from __future__ import annotations

import logging
import os
import shutil
import stat
from pathlib import Path

import pytest

from pdserver.logs.files import LogFile


def say(file: LogFile, text: str) -> None:
    file.handle(logging.LogRecord("test", logging.INFO, "", 1, "%s", (text,), None))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "logs" / "a.log"


def test_it_is_rotated_before_it_is_too_large(path: Path) -> None:
    file = LogFile(path, max_bytes=10, files_kept=2)
    for text in ("first", "é2", "third", "fourth is long", "5"):
        say(file, text)
    there = {each.name: each.read_text() for each in path.parent.iterdir()}
    assert there == {"a.log": "5\n", "a.log.1": "fourth is long\n", "a.log.2": "third\n"}
    assert stat.S_IMODE(path.stat().st_mode) & 0o137 == 0
    file.close()
    say(file, "6")
    assert path.read_text() == "5\n6\n"
    file.close()


def test_it_is_made_again_where_it_was(path: Path) -> None:
    file = LogFile(path)
    say(file, "one")
    path.rename(path.with_name("moved"))
    say(file, "two")
    assert (path.with_name("moved").read_text(), path.read_text()) == ("one\n", "two\n")
    shutil.rmtree(path.parent)
    say(file, "three \udcff")
    assert path.read_text() == "three \\udcff\n"
    file.close()


def test_what_is_no_file_is_not_rotated(path: Path) -> None:
    path.parent.mkdir()
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    file = LogFile(path, max_bytes=4)
    say(file, "one")
    say(file, "two")
    assert os.read(reader, 100) == b"one\ntwo\n"
    os.close(reader)
    file.close()


def test_who_cannot_write_says_so_once_until_it_can(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path.parent.mkdir()
    path.symlink_to("/dev/full")
    file = LogFile(path)
    for _ in range(3):
        say(file, "one")
    assert capsys.readouterr().err.count(f"pdserver: {path} can't be written: [Errno 28]") == 1
    path.unlink()
    say(file, "two")
    assert (path.read_text(), capsys.readouterr().err) == ("two\n", "")
    file.close()
