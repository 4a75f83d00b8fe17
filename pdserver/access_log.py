"""The access log: one line a request, written a few times a second and not once a request."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator
from functools import lru_cache

import orjson

from pdserver.batched_log import Batched, timestamp

_Entry = tuple[float, str, bytes, bytes, int | str, float]
_logger = logging.getLogger("pdserver.access")
_MAX_SHOWN_BYTES = 512
_SECRET = re.compile(rb"((?:^|[?&])[^=&]*(?:token|key|secret|password|authorization)[^=&]*=)[^&]*", re.IGNORECASE)
"""A parameter of a query whose name says that its value is nobody's business."""


class AccessLog:
    """Call it with client, method, target, status and seconds; it goes to the logger `pdserver.access`.

    Many finished lines make one log record: as text they are TorchServe's, time, client, request, status and
    milliseconds. With `each`, every request is a record of its own, with these as attributes, for the formatters that
    an operator chose.
    """

    def __init__(self, *, json: bool = False, each: bool = False) -> None:
        self._lines = _json_lines if json else _text_lines
        self._each = each
        self._batched = Batched[_Entry](self._write)

    def __call__(self, client: str, method: bytes, target: bytes, status: int | str, seconds: float) -> None:
        """`method` and `status` are HTTP's, or "gRPC" and the name of its status code."""
        self._batched((time.time(), client, method, target, status, seconds))

    def _write(self, entries: list[_Entry]) -> None:
        if self._each:
            for entry in entries:
                _logger.info("%s", _words(entry), extra=_fields(entry))
        else:
            _logger.info("%s", "\n".join(self._lines(entries)))

    def close(self) -> None:
        """Hand on what is left. Idempotent."""
        self._batched.close()


def _text_lines(entries: list[_Entry]) -> Iterator[str]:
    return (f"{timestamp(entry[0])} - {_words(entry)}" for entry in entries)


def _json_lines(entries: list[_Entry]) -> Iterator[str]:
    return (orjson.dumps({"time": timestamp(entry[0]), **_fields(entry)}).decode() for entry in entries)


def _words(entry: _Entry) -> str:
    _, client, method, target, status, seconds = entry
    version = "HTTP/2.0" if method == b"gRPC" else "HTTP/1.1"
    return f'/{client} "{_shown(method)} {_shown(target)} {version}" {status} {seconds * 1e3:.3f}'


def _fields(entry: _Entry) -> dict[str, str | int | float]:
    _, client, method, target, status, seconds = entry
    return {
        "client": client,
        "method": _shown(method),
        "target": _shown(target),
        "status": status,
        "milliseconds": round(seconds * 1e3, 3),
    }


@lru_cache(maxsize=1024)
def _shown(raw: bytes) -> str:
    """What the client sent, in one line whatever it is, not endless, and without what looks like a secret."""
    if len(raw) > _MAX_SHOWN_BYTES:
        raw = raw[:_MAX_SHOWN_BYTES] + b"..."
    text = _SECRET.sub(rb"\1***", raw).decode("ascii", "backslashreplace")
    return text if text.isprintable() else ascii(text)[1:-1]
