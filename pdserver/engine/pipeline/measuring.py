"""How fast a pipeline answers its samples, to choose between ways to run it."""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from pdserver.types import Request

_SECONDS = 0.5
"""That each measurement takes; at least one request of each client is answered."""
_MANY = 8


class Rates(NamedTuple):
    """Requests a second."""

    alone: float
    """With one client."""
    together: float
    """With many."""

    @property
    def score(self) -> float:
        """Their geometric mean: neither is forgotten for the other."""
        return math.sqrt(self.alone * self.together)

    def __str__(self) -> str:
        return f"{self.alone:.0f}/s with 1 client, {self.together:.0f}/s with {_MANY}"


async def measured(ask: Callable[[Request], Awaitable[object]], requests: Sequence[Request]) -> Rates:
    """`ask` raises for a request that fails."""
    await ask(requests[0])
    return Rates(await _rate(ask, requests, 1), await _rate(ask, requests, _MANY))


async def _rate(ask: Callable[[Request], Awaitable[object]], requests: Sequence[Request], clients: int) -> float:
    began = time.monotonic()
    turns = itertools.cycle(requests)
    answered = 0

    async def client() -> None:
        nonlocal answered
        while True:
            await ask(next(turns))
            answered += 1
            if time.monotonic() - began >= _SECONDS:
                return

    await asyncio.gather(*(client() for _ in range(clients)))
    return answered / (time.monotonic() - began)
