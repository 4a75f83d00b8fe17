"""When the controller's loop works: after each event, at each beat, and more often while somebody waits."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

_BEAT_SECONDS = 0.5
_HURRY_SECONDS = 0.1
"""Between beats while somebody waits."""


class Rounds:
    """Each round of work begins with `begun`, and ends with `done`."""

    def __init__(self, check: Callable[[], None]) -> None:
        """`check` raises when nothing more is to be waited for."""
        self._check = check
        self._waiting = 0
        self._awake = asyncio.Event()
        self._hurry = asyncio.Event()
        self._done: asyncio.Future[None] | None = None
        """Of the next round."""

    def wake(self) -> None:
        """Have another round begin."""
        self._awake.set()

    async def begun(self) -> None:
        """Wait until there is something to do."""
        await self._awake.wait()
        self._awake.clear()

    def done(self) -> None:
        """Have all who wait look at what has come of it."""
        if self._done is not None:
            self._done.set_result(None)
            self._done = None

    async def beat(self) -> None:
        """Wait for the next beat."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._hurry.wait(), _BEAT_SECONDS)
            await asyncio.sleep(_HURRY_SECONDS)

    async def until(self, check: Callable[[], bool], seconds: float = float("inf")) -> bool:
        """Wait for this, looking after each round; False when it takes longer. Raises what `check` raises, and what
        the check of all who wait does."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        self._waiting += 1
        self._hurry.set()
        self.wake()
        try:
            while not check():
                self._check()
                if loop.time() >= end:
                    return False
                self._done = self._done or loop.create_future()
                await asyncio.wait([self._done], timeout=None if seconds == float("inf") else end - loop.time())
            return True
        finally:
            self._waiting -= 1
            if not self._waiting:
                self._hurry.clear()
