"""Files and formats of logs: one line for each record, whatever is in it."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path

from pdserver.logs.batched import timestamp
from pdserver.system.folders import make_folder

FOLDER_MODE = 0o750
_FILE_MODE = 0o640
"""Logs name clients and their requests, so only the server's user and group may read them."""
_FILE_BYTES = 100 * 1024 * 1024
_FILES_KEPT = 5


def private_opener(path: str, flags: int) -> int:
    """An opener for `open`: a new file has at most _FILE_MODE, an existing one keeps its mode."""
    return os.open(path, flags, _FILE_MODE)


class LogFile(RotatingFileHandler):
    """A file that is rotated before it outgrows `max_bytes`, and created again if somebody moved it or its folder away.

    If it can't be written, stderr says so once, until it can be written again.
    """

    def __init__(self, path: Path, max_bytes: int = _FILE_BYTES, files_kept: int = _FILES_KEPT) -> None:
        super().__init__(
            path, maxBytes=max_bytes, backupCount=files_kept, encoding="utf-8", errors="backslashreplace", delay=True
        )
        self._failed = False
        self._told = False

    def emit(self, record: logging.LogRecord) -> None:
        self._failed = False
        try:
            self._follow()
        except OSError:
            self.handleError(record)
        else:
            super().emit(record)
        self._told = self._failed

    def _follow(self) -> None:
        """Close the file if its name belongs to another file now. The next write opens it again."""
        if self.stream is not None:
            try:
                there = os.path.samestat(os.stat(self.baseFilename), os.fstat(self.stream.fileno()))  # noqa: PTH116
            except FileNotFoundError:
                there = False
            if there:
                return
            self.stream.close()
            self.stream = None
        make_folder(Path(self.baseFilename).parent, FOLDER_MODE)

    def _open(self) -> TextIOWrapper:
        return open(self.baseFilename, "a", encoding=self.encoding, errors=self.errors, opener=private_opener)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        self._failed = True
        if not self._told and sys.stderr is not None:
            with contextlib.suppress(OSError):  # stderr may be full or closed as well
                print(f"pdserver: {self.baseFilename} can't be written: {sys.exc_info()[1]}", file=sys.stderr)  # noqa: T201


class TextFormatter(logging.Formatter):
    """`time [LEVEL] logger - message`. A message has one line; a traceback follows in further lines."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s [%(levelname)s] %(name)s - %(message)s")

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802
        return timestamp(record.created)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        message = record.message
        if not message.isprintable():
            record.message = "".join(c if c.isprintable() or c == "\t" else ascii(c)[1:-1] for c in message)
        return super().formatMessage(record)


class JsonFormatter(logging.Formatter):
    """One JSON object in each line: time, level, logger, message, and the exception's traceback if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": timestamp(record.created),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry)
