"""Streamed answers, taken piece by piece as they come."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence

from pdserver.engine.queue import Call
from pdserver.errors import Kind
from pdserver.memory_file import MemoryFile
from pdserver.types import Failure, Outcome, Reply, Request

_MAX_WAITING_BYTES = 64 * 1024 * 1024
NOT_TAKEN = Failure(
    Kind.OVERLOADED, f"the answer is not taken as fast as it comes: more than {_MAX_WAITING_BYTES:,} bytes wait"
)


class Waiting:
    """Counts the bytes of pieces that have come and are not taken yet. A worker can't be told to wait, so there is a
    limit."""

    __slots__ = ("_bytes",)

    def __init__(self) -> None:
        self._bytes = 0

    def add(self, piece: Reply) -> bool:
        """Count a piece. Returns whether it is within the limit."""
        self._bytes += _size(piece)
        return self._bytes <= _MAX_WAITING_BYTES

    def take(self, outcome: Outcome) -> None:
        if isinstance(outcome, Reply):
            self._bytes -= _size(outcome)


def _size(piece: Reply) -> int:
    return len(piece.body) + sum([len(tensor.data) for tensor in piece.tensors])


class PieceByPiece(Call):
    """A call whose answer is taken as it comes. Each piece in `pieces` says whether it is the last."""

    def __init__(self, request: Request, kept: Sequence[MemoryFile]) -> None:
        super().__init__(request, time.monotonic(), kept)
        self.pieces: asyncio.Queue[tuple[Outcome, bool]] = asyncio.Queue()
        self.waiting = Waiting()

    def chunk(self, piece: Reply) -> None:
        if self.waiting.add(piece):
            self.pieces.put_nowait((piece, False))
        else:
            self.cancelled = True
            self.pieces.put_nowait((NOT_TAKEN, True))

    def settle(self, outcome: Outcome) -> None:
        if isinstance(outcome, Reply):
            self.waiting.add(outcome)
        self.pieces.put_nowait((outcome, True))


async def pieces(
    submit: Callable[[Call], None], request: Request, kept: Sequence[MemoryFile] = ()
) -> AsyncGenerator[Outcome, None]:
    """The pieces of a streamed answer, or the whole answer as the only piece. Closing it gives the request up.

    `kept` are the request's files.

    `submit` is the engine's. Raises what it raises.
    """
    call = PieceByPiece(request, kept)
    submit(call)
    try:
        last = False
        while not last:
            outcome, last = await call.pieces.get()
            call.waiting.take(outcome)
            yield outcome
    finally:
        call.pieces = asyncio.Queue()  # so that the worker's batch, which holds the call, does not hold the pieces
        call.cancel()  # no more than a note once it is settled
