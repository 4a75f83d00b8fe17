"""One call that is passed on, as both ends have it: pieces come and go, as many as there is room for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any

from pdserver.front_ends.messages import Data, Last, Left, Taken

_MOST_WAITING = 8
"""Pieces that were sent and that the other end has not taken."""


class Conversation:
    """`say` sends a message to the other end. `take` is called with each that comes from there."""

    def __init__(self, number: int, say: Callable[[Any], None]) -> None:
        self.number = number
        self._say = say
        self._come: asyncio.Queue[Any] = asyncio.Queue()
        self._room = asyncio.Semaphore(_MOST_WAITING)

    def take(self, message: Any) -> None:
        if isinstance(message, Taken):
            self._room.release()
        else:
            self._come.put_nowait(message)

    async def send(self, data: bytes) -> None:
        """Send a piece, once there is room for it."""
        await self._room.acquire()
        self._say(Data(self.number, data))

    async def next(self) -> Any:
        """The next message, whatever it is."""
        message = await self._come.get()
        if isinstance(message, Data):
            self._say(Taken(self.number))
        return message

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """What the other end sends, until that was all. Raises ConnectionError if it breaks off."""
        while not isinstance(message := await self.next(), Last):
            if isinstance(message, Left):
                raise ConnectionError
            yield message.data
