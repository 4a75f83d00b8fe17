"""Who gives an archive to whom.

Each holder gives to a few at a time, and who has got an archive gives it on. So the number of those that have it grows
by a factor from one round to the next, no holder's network is shared by all nodes, and no holder has more than a few
pieces in memory. Whoever finds all holders taken waits for its turn.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TypeVar

MOST = 2
"""To which a holder gives at a time. With one, a slow node would keep it from all others."""
_T = TypeVar("_T")


class Sources:
    """The turns of all holders, which are what can be a dictionary's key."""

    def __init__(self) -> None:
        self._busy: Counter[object] = Counter()
        self._freed = asyncio.Event()

    @contextlib.asynccontextmanager
    async def turn(self, holders: Callable[[], Sequence[_T]]) -> AsyncIterator[_T | None]:
        """The holder that gives to the fewest now, of these the first, once there is one whose turn it can be. None:
        there are no holders, or no more. `holders` is asked again whenever a turn has ended."""
        while (there := holders()) and all(self._busy[each] >= MOST for each in there):
            await self._freed.wait()
        chosen = min(there, key=lambda each: self._busy[each], default=None)
        self._busy[chosen] += 1
        try:
            yield chosen
        finally:
            self._busy[chosen] -= 1
            if not self._busy[chosen]:
                del self._busy[chosen]
            self._freed.set()
            self._freed = asyncio.Event()
