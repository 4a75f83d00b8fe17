"""Requests that flow while workers are killed."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator

from tests.running import eventually

_PAUSE_SECONDS = 0.15
"""Between kills: faster ones would look like a model that can't run."""


class Flow:
    """Knows which requests are under way, and kills no worker before all that saw the last one die have ended.

    A request whose worker dies is tried once more. One that met a second death would fail, and rightly so.
    """

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self._under_way: set[int] = set()

    @contextlib.contextmanager
    def request(self) -> Iterator[None]:
        """Around one request and its answer."""
        number = next(self._numbers)
        self._under_way.add(number)
        try:
            yield
        finally:
            self._under_way.discard(number)

    def kill(self, pid: int) -> None:
        """Returns when the requests that were under way have ended."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        met = set(self._under_way)
        eventually(lambda: met.isdisjoint(self._under_way))

    @contextlib.contextmanager
    def killing(self, pids: Callable[[], Iterable[int]]) -> Iterator[None]:
        """Kills these workers, one after the other, again and again until the block ends; one of them at least."""
        over = threading.Event()
        killed: list[int] = []

        def kill() -> None:
            while not over.is_set():
                for pid in pids():
                    self.kill(pid)
                    killed.append(pid)
                    if over.wait(_PAUSE_SECONDS):
                        return

        killer = threading.Thread(target=kill)
        killer.start()
        try:
            yield
        finally:
            over.set()
            killer.join()
        assert killed
