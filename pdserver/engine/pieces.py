"""Streamed answers, for who takes them as they come."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable

from pdserver.engine.queue import Call
from pdserver.types import Outcome, Reply, Request


class PieceByPiece(Call):
    """A call whose answer is taken as it comes: pieces, each with whether it is the last."""

    __slots__ = ("pieces",)

    def __init__(self, request: Request) -> None:
        super().__init__(request, time.monotonic())
        self.pieces: asyncio.Queue[tuple[Outcome, bool]] = asyncio.Queue()

    def chunk(self, piece: Reply) -> None:
        self.pieces.put_nowait((piece, False))

    def settle(self, outcome: Outcome) -> None:
        self.pieces.put_nowait((outcome, True))


async def pieces(submit: Callable[[Call], None], request: Request) -> AsyncGenerator[Outcome, None]:
    """The pieces of a streamed answer; the last one, or the only one, at the end. Closing it gives the request up.

    Raises what `submit`, the engine's, raises.
    """
    call = PieceByPiece(request)
    submit(call)
    try:
        last = False
        while not last:
            outcome, last = await call.pieces.get()
            yield outcome
    finally:
        call.cancel()  # no more than a note once it is settled
