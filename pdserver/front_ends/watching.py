"""Finds the front ends that hang: those whose event loop does not run."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable

from pdserver.front_ends.process import FrontEndProcess
from pdserver.metrics import shared
from pdserver.system.shared_page import SharedPage

_log = logging.getLogger("pdserver.front_ends")
_LOOK_SECONDS = 1.0
_LOOKS = 10
_LOOKS_AT_START = 60
"""So many looks in a row without a sign of life, and a process hangs. Looks are counted, not seconds: if the main
process itself did not run, because all of them were stopped together, it has not looked either."""


class Watch:
    """Looks at the beats that `processes` note in the page, and ends those that hang."""

    def __init__(self, page: SharedPage, processes: Callable[[], Iterable[FrontEndProcess]]) -> None:
        self._page = page
        self._processes = processes
        self._seen: dict[int, tuple[int, int]] = {}
        """The beat that was seen last, and how many times in a row, by pid."""
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._look_on())

    def stop(self) -> None:
        """Idempotent."""
        if self._task is not None:
            self._task.cancel()

    async def _look_on(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            for process in self.silent():
                seconds = self._seen.pop(process.pid)[1] * _LOOK_SECONDS
                _log.error("front end %d has hung for %.0f s: pid %d is ended", process.number, seconds, process.pid)
                await process.give_up()

    def silent(self) -> list[FrontEndProcess]:
        """Look once. Returns those that have not given a sign of life for too long."""
        before, self._seen = self._seen, {}
        found = []
        for process in self._processes():
            beat = shared.last_beat(self._page, process.number)
            seen, times = before.get(process.pid, (beat, 0))
            times = times + 1 if seen == beat else 0
            self._seen[process.pid] = beat, times
            if times >= (_LOOKS if process.is_ready else _LOOKS_AT_START):
                found.append(process)
        return found
