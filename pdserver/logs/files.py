"""Files and formats of logs: one line for each record, whatever is in it."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import stat
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
        self._opened = (0, 0)
        """Device and inode of the open file."""

    def emit(self, record: logging.LogRecord) -> None:
        """It makes two system calls, since after each one the thread waits until the event loop lets it go on."""
        self._failed = False
        try:
            data = f"{self.format(record)}\n".encode("utf-8", "backslashreplace")
            file, size = self._follow()
            if size and size + len(data) >= self.maxBytes > 0:
                self.doRollover()
                file, _ = self._follow()
            while data:
                data = data[os.write(file, data) :]
        except Exception:  # noqa: BLE001 - as in logging: whatever it is, the program goes on
            self.handleError(record)
        self._told = self._failed

    def _follow(self) -> tuple[int, int]:
        """Open the file if it is not open, or if its name belongs to another file now. Returns its descriptor, and its
        size in bytes, or 0 for what can't be rotated."""
        if self.stream is not None:
            with contextlib.suppress(FileNotFoundError):
                state = os.stat(self.baseFilename)  # noqa: PTH116
                if (state.st_dev, state.st_ino) == self._opened:
                    return self.stream.fileno(), _size(state)
            self.stream.close()
            self.stream = None
        make_folder(Path(self.baseFilename).parent, FOLDER_MODE)
        self.stream = self._open()
        state = os.fstat(self.stream.fileno())
        self._opened = (state.st_dev, state.st_ino)
        return self.stream.fileno(), _size(state)

    def _open(self) -> TextIOWrapper:
        return open(self.baseFilename, "a", encoding=self.encoding, errors=self.errors, opener=private_opener)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        self._failed = True
        if not self._told and sys.stderr is not None:
            with contextlib.suppress(OSError):  # stderr may be full or closed as well
                print(f"pdserver: {self.baseFilename} can't be written: {sys.exc_info()[1]}", file=sys.stderr)  # noqa: T201


def _size(state: os.stat_result) -> int:
    return state.st_size if stat.S_ISREG(state.st_mode) else 0


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
        exception = record.exc_text or (self.formatException(record.exc_info) if record.exc_info else "")
        if exception:
            entry["exception"] = exception
        return json.dumps(entry)
