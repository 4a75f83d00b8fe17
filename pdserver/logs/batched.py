"""For logs with a line for each request: collects entries and passes many on at once, a few times a second or sooner.

In the course of a request, this is one append. The event loop makes the text of a few hundred entries at a time, and a
thread only writes it. If the thread made the text, it would block the event loop for longer than that takes.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Generic, TypeVar

Entry = TypeVar("Entry")
_FLUSH_SECONDS = 0.2
_ENTRIES_AT_ONCE = 512


class Batched(Generic[Entry]):
    """Collects entries. `write` gets lists of them, in the event loop."""

    def __init__(self, write: Callable[[list[Entry]], None]) -> None:
        self._write = write
        self._loop = asyncio.get_running_loop()
        self._entries: list[Entry] = []
        self._timer: asyncio.TimerHandle | None = None

    def add(self, entry: Entry) -> None:
        entries = self._entries
        entries.append(entry)
        if self._timer is None:
            self._timer = self._loop.call_later(_FLUSH_SECONDS, self._flush)
        elif len(entries) >= _ENTRIES_AT_ONCE:
            self._hand_on()

    def _flush(self) -> None:
        self._timer = None
        self._hand_on()

    def _hand_on(self) -> None:
        entries, self._entries = self._entries, []
        if entries:
            self._write(entries)

    def close(self) -> None:
        """Pass on what is left. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
        self._flush()


class LineLog:
    """A log of finished lines. With `each`, every line is a record. Otherwise a record has many lines, each with its
    time."""

    def __init__(self, logger: logging.Logger, *, each: bool) -> None:
        self._logger = logger
        self._each = each
        self._batched = Batched[tuple[float, str]](self._write)

    def __call__(self, line: str) -> None:
        self._batched.add((time.time(), line))

    def _write(self, entries: list[tuple[float, str]]) -> None:
        if self._each:
            for _, line in entries:
                self._logger.info("%s", line)
        else:
            self._logger.info("%s", "\n".join(f"{timestamp(when)} - {line}" for when, line in entries))

    def close(self) -> None:
        """Idempotent."""
        self._batched.close()


def timestamp(when: float) -> str:
    """`when` (seconds since 1970) as in TorchServe's logs, with the time zone: 2026-03-14T15:09:26,535+01:00."""
    return of_millisecond(int(when * 1000))


@lru_cache(maxsize=16)
def of_millisecond(millisecond: int) -> str:
    """The same of milliseconds since 1970. Many entries have the same one."""
    second, rest = divmod(millisecond, 1000)
    text, zone = _to_the_second(second)
    return f"{text},{rest:03d}{zone}"


@lru_cache(maxsize=16)
def _to_the_second(second: int) -> tuple[str, str]:
    text = time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(second))
    return text[:-5], f"{text[-5:-2]}:{text[-2:]}"
