"""Files and formats of logs: one line a record, whatever is in it."""

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
"""Logs name clients and what they asked for: they are for the server's user and group."""
_FILE_BYTES = 100 * 1024 * 1024
_FILES_KEPT = 5


def private_opener(path: str, flags: int) -> int:
    """For `open`: a file that is made has no more than _FILE_MODE, one that is there stays as it is."""
    return os.open(path, flags, _FILE_MODE)


class LogFile(RotatingFileHandler):
    """A file that is rotated before it outgrows `max_bytes`, and made anew when somebody moved it or its folder away.

    When it can't be written, that is said on stderr, once, until it can again.
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
        """Close the file when it is not the one by its name any more: it is opened again when it is written."""
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
            with contextlib.suppress(OSError):  # of stderr itself, which may be as full, or gone
                print(f"pdserver: {self.baseFilename} can't be written: {sys.exc_info()[1]}", file=sys.stderr)  # noqa: T201


class TextFormatter(logging.Formatter):
    """`time [LEVEL] logger - message`; a traceback has further lines, a message never."""

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
    """A JSON object a line: time, level, logger, message, and the exception's traceback if there is one."""

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
