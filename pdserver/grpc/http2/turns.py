"""How connections share the event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from time import monotonic

TURN_SECONDS = 0.002
"""Time in each round of the event loop for the data that connections received."""


class Turns:
    """The turns in one event loop. In each round, all connections together have that time. However many there are, the
    loop's other work goes on. Further data wait for the next rounds, the longest waiting first.

    A connection regularly asks whether the time is over. One that received little never asks, and never waits.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[Callable[[], None]] = deque()
        self._deadline = 0.0
        """The end of this round's time. 0 if nobody has asked yet."""
        self._armed = False
        """Whether the next round's beginning is scheduled."""

    def is_over(self) -> bool:
        now = monotonic()
        if not self._deadline:
            self._deadline = now + TURN_SECONDS
            self._arm()
        return now >= self._deadline

    def wait(self, go_on: Callable[[], None]) -> None:
        """Call `go_on` once, in a later round. It may wait again."""
        self._waiting.append(go_on)
        self._arm()

    def _arm(self) -> None:
        if not self._armed:
            self._armed = True
            self._loop.call_soon(self._begin)

    def _begin(self) -> None:
        self._armed = False
        self._deadline = 0.0
        for _ in range(len(self._waiting)):
            self._waiting.popleft()()
            if self._deadline and self.is_over():
                break
        if self._waiting:
            self._arm()
