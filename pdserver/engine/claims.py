"""Which of several models that are loaded side by side gets a name and version: the one that was named first."""

from __future__ import annotations

import asyncio

from pdserver.errors import Conflict
from pdserver.types import ModelRef


class Claims:
    """Claims of `count` models, by their places in the order in which they were named."""

    def __init__(self, count: int) -> None:
        loop = asyncio.get_running_loop()
        self._refs: list[asyncio.Future[ModelRef | None]] = [loop.create_future() for _ in range(count)]
        self._have: list[asyncio.Future[bool]] = [loop.create_future() for _ in range(count)]

    async def claim(self, place: int, ref: ModelRef) -> None:
        """Wait until no earlier model can have the same. Raises Conflict when one has."""
        if not self._refs[place].done():  # else it has given the claim up, and comes again
            self._refs[place].set_result(ref)
        for earlier, has_it in zip(self._refs[:place], self._have[:place], strict=True):
            if await earlier == ref and await has_it:
                raise Conflict(f"Model version {ref.version} is already registered for model {ref.name}")

    def settle(self, place: int, *, has_it: bool) -> None:
        """Say whether the model at `place` got what it claimed. Only the first call counts."""
        if not self._refs[place].done():
            self._refs[place].set_result(None)
        if not self._have[place].done():
            self._have[place].set_result(has_it)
