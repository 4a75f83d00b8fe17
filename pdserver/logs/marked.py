"""Lines that a worker writes with a level. Each begins with a mark, which the server removes for its log.

What handlers print has no mark.
"""

from __future__ import annotations

import logging
import sys

_MARK = "\x1e"
_LETTERS = {logging.WARNING: "W", logging.ERROR: "E"}
_LEVELS = {f"{_MARK}{letter}".encode(): level for level, letter in _LETTERS.items()}


def write(level: int, text: str) -> None:
    """Write the text to stderr, with a mark on each line."""
    mark = f"{_MARK}{_LETTERS[logging.ERROR if level >= logging.ERROR else logging.WARNING]}"
    sys.stderr.write("".join(f"{mark}{line}\n" for line in text.splitlines()))


def read(line: bytes) -> tuple[int, bytes]:
    """The line's level, and the line without its mark."""
    level = _LEVELS.get(line[:2])
    return (logging.INFO, line) if level is None else (level, line[2:])


class LastResort(logging.Handler):
    """Replaces Python's handler of last resort, for loggers that a handler has not set up. It keeps the levels."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            write(record.levelno, self.format(record))
        except Exception:  # noqa: BLE001 - as in logging: a handler's own objects may not be printable
            self.handleError(record)
