"""How connections share the event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from time import monotonic

TURN_SECONDS = 0.002
"""After which others have their turn, though more was received."""


class Turns:
    """Of one event loop. Connections that received more than fits into a turn wait here for their next one. All of them
    together have one turn in each round of the loop: however many there are, the loop's other work goes on."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[Callable[[float], None]] = deque()

    def wait(self, go_on: Callable[[float], None]) -> None:
        """`go_on` is called once, with the time (of time.monotonic) at which its turn ends; it may wait again."""
        if not self._waiting:
            self._loop.call_soon(self._round)
        self._waiting.append(go_on)

    def _round(self) -> None:
        deadline = monotonic() + TURN_SECONDS
        for _ in range(len(self._waiting)):
            self._waiting[0](deadline)  # first in the queue until it is done, so that `wait` arms no second round
            self._waiting.popleft()
            if monotonic() >= deadline:
                break
        if self._waiting:
            self._loop.call_soon(self._round)
