"""Lines that a worker writes with a level: each begins with a mark, which the server takes off for its log.

What handlers print has none.
"""

from __future__ import annotations

import logging
import sys

_MARK = "\x1e"
_LETTERS = {logging.WARNING: "W", logging.ERROR: "E"}
_LEVELS = {f"{_MARK}{letter}".encode(): level for level, letter in _LETTERS.items()}


def write(level: int, text: str) -> None:
    """To stderr, line by line."""
    mark = f"{_MARK}{_LETTERS[logging.ERROR if level >= logging.ERROR else logging.WARNING]}"
    sys.stderr.write("".join(f"{mark}{line}\n" for line in text.splitlines()))


def read(line: bytes) -> tuple[int, bytes]:
    """Its level, and the line without its mark."""
    level = _LEVELS.get(line[:2])
    return (logging.INFO, line) if level is None else (level, line[2:])


class LastResort(logging.Handler):
    """For loggers that a handler has not set up: Python's own, with levels."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            write(record.levelno, self.format(record))
        except Exception:  # noqa: BLE001 - as logging has it: a handler's own objects may not be printable
            self.handleError(record)
