"""Streamed answers that nobody takes: what waits is bounded, and goes with its taker."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncGenerator

from pdserver.engine.pieces import NOT_TAKEN, pieces
from pdserver.engine.queue import Call
from pdserver.types import Outcome, Reply, Request, Tensor

MIB = 1024 * 1024


class Piece(bytearray):
    """Of which one can know whether it is still there."""


async def begun() -> tuple[Call, AsyncGenerator[Outcome, None], asyncio.Future[Outcome]]:
    """A call whose first piece is awaited."""
    submitted: list[Call] = []
    answers = pieces(submitted.append, Request("m", None, "", []))
    asking = asyncio.ensure_future(anext(answers))
    await asyncio.sleep(0)
    [call] = submitted
    return call, answers, asking


def test_pieces_that_nobody_takes_are_bounded() -> None:
    async def run() -> None:
        call, answers, asking = await begun()
        for size in range(100):
            if call.cancelled:
                break
            tensor = Tensor("a", "uint8", (MIB,), bytes(MIB))
            call.chunk(Reply(bytes(MIB), "", tensors=[tensor] if size % 2 else []))
        assert call.cancelled
        got = [await asking, *[outcome async for outcome in answers]]
        assert got[-1] is NOT_TAKEN
        assert 40 <= len(got) < 45

    asyncio.run(run())


def test_an_answer_of_any_size_passes_when_it_is_taken() -> None:
    async def run() -> None:
        call, answers, asking = await begun()
        for _ in range(200):
            call.chunk(Reply(bytes(MIB), ""))
            await asking
            asking = asyncio.ensure_future(anext(answers))
            await asyncio.sleep(0)
        assert not call.cancelled
        asking.cancel()

    asyncio.run(run())


def test_what_waits_goes_with_its_taker_though_the_call_is_kept() -> None:
    async def run() -> None:
        call, answers, asking = await begun()
        waits = Piece(b"x")
        call.chunk(Reply(b"first", ""))
        await asking
        call.chunk(Reply(waits, ""))  # type: ignore[arg-type]
        there = weakref.ref(waits)
        del waits
        assert there() is not None
        await answers.aclose()
        gc.collect()
        assert there() is None
        assert call.cancelled

    asyncio.run(run())
