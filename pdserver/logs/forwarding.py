"""The logs of a front end, which the main process writes: it alone has the files."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

import msgspec

from pdserver.logs.access import LOGGER as ACCESS

_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "front_end"}
"""Attributes that any record has. Others are its own."""
_formatter = logging.Formatter()


class Logged(msgspec.Struct, frozen=True, array_like=True, tag="logged"):
    """A record of a log."""

    logger: str
    level: int
    created: float
    process: int
    message: str
    exception: str
    """The traceback, if there is one."""
    own: dict[str, str | int | float]
    """Attributes that only this record has, for an operator's own formatters."""


class Forwarder(logging.Handler):
    """Passes records to `send`, in the event loop that runs now. They may come from any thread."""

    def __init__(self, send: Callable[[Logged], None]) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        try:
            logged = _logged(record)
        except Exception:  # noqa: BLE001 - as in logging: whatever it is, the program goes on
            self.handleError(record)
            return
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._send, logged)


def forward(send: Callable[[Logged], None]) -> None:
    """Pass all records of this process to `send`."""
    root = logging.getLogger()
    root.handlers = [Forwarder(send)]
    root.setLevel(logging.INFO)


def _logged(record: logging.LogRecord) -> Logged:
    exception = _formatter.formatException(record.exc_info) if record.exc_info else record.exc_text or ""
    own = {
        name: value
        for name, value in record.__dict__.items()
        if name not in _STANDARD and isinstance(value, (str, int, float))
    }
    return Logged(record.name, record.levelno, record.created, record.process or 0, record.getMessage(), exception, own)


def write(logged: Logged, front_end: int) -> None:
    """Log in this process what a front end has logged, with its number. Lines of the access log are like others'."""
    logger = logging.getLogger(logged.logger)
    if not logger.isEnabledFor(logged.level):
        return
    mark = "" if logged.logger == ACCESS else f"front end {front_end}: "
    record = logging.makeLogRecord(
        {
            **logged.own,
            "name": logged.logger,
            "levelno": logged.level,
            "levelname": logging.getLevelName(logged.level),
            "msg": "%s",
            "args": (mark + logged.message,),
            "created": logged.created,
            "msecs": logged.created % 1 * 1000,
            "process": logged.process,
            "exc_text": logged.exception or None,
            "front_end": front_end,
        }
    )
    logger.handle(record)
