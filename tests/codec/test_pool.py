"""Codec processes: whoever dies or hangs, what was asked for is answered; and nobody has all of them."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import os
import signal
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
import psutil
import pytest

from pdserver.codec.pool import CodecPool
from pdserver.configuration.model import ModelSpec
from pdserver.dialects.oip.large import GENERATE, Generation
from pdserver.errors import InvalidRequest, Overloaded, PdError, TooLarge, Unavailable, Unsupported, WorkerDied
from pdserver.memory_file import MemoryFile, view
from pdserver.tensors import array
from pdserver.types import Interface, Port, Tensor

SPEC = ModelSpec(
    name="m", version="1", url="m", directory="", handler="", manifest={}, model_config={}, min_workers=1,
    max_workers=1,
)  # fmt: skip
INTERFACE = Interface([Port("x", "int64", (-1, -1))], [], batched=True)
GIVEN = Generation(SPEC, INTERFACE, [(b"a", b"b")], b"", "id", b"", 1 << 30)
BLANKS = gzip.compress(b" " * 5000, mtime=0)
ZIPPED = msgspec.structs.replace(GIVEN, encoding=b"gzip", limit_bytes=1000)


def body(count: int) -> MemoryFile:
    file = MemoryFile([b'{"x": [', b"7," * count, b"7]}"])
    file.seal()
    return file


HEAVY = 4_000_000
LIGHT = 50_000


async def read(pool: CodecPool, count: int) -> int:
    """How many numbers came back."""
    request, files = await pool.run(GENERATE, GIVEN, [body(count)])
    (given,) = request.inputs
    assert isinstance(given, Tensor)
    assert (request.id, request.headers, given.name) == ("id", [(b"a", b"b")], "x")
    assert given.file == 0
    data = view(files[0].fd)[given.start : given.start + given.size]
    values = array(Tensor("x", given.dtype, given.shape, data))  # type: ignore[arg-type]
    assert (values == 7).all()
    return values.size - 1


def pids() -> list[int]:
    found = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if "pdserver.codec.child" in child.cmdline():
                found.append(child.pid)
    return found


def run(use: Callable[[CodecPool], Coroutine[Any, Any, None]], **how: Any) -> None:
    """With a pool, of which nothing is left afterwards."""

    async def main() -> None:
        pool = CodecPool(**how)
        try:
            await use(pool)
        finally:
            await pool.close()

    asyncio.run(main())
    assert not pids()


async def born() -> list[int]:
    while not (found := pids()):  # noqa: ASYNC110 - nobody tells of it
        await asyncio.sleep(0.01)
    return found


@pytest.mark.parametrize(
    ("error", "given", "data", "said"),
    [
        (InvalidRequest, GIVEN, b'{"x": [1, 2.5]}', "must be a list of whole numbers"),
        (InvalidRequest, ZIPPED, b"no gzip", "gzip"),
        (TooLarge, ZIPPED, BLANKS, r"more than 1,000 bytes once decompressed \(max_request_size\)"),
        (Unsupported, msgspec.structs.replace(GIVEN, encoding=b"br"), b"", "br"),
    ],
)
def test_what_was_wrong_is_raised_as_it_is_where_a_small_body_is_read(
    error: type[PdError], given: Generation, data: bytes, said: str
) -> None:
    async def use(pool: CodecPool) -> None:
        file = MemoryFile([data])
        file.seal()
        with pytest.raises(error, match=said):
            await pool.run(GENERATE, given, [file])
        assert await read(pool, LIGHT) == LIGHT
        assert len(pids()) == 1

    run(use)


def test_a_body_is_given_to_another_process_when_its_own_is_killed() -> None:
    async def use(pool: CodecPool) -> None:
        reading = asyncio.ensure_future(read(pool, HEAVY))
        (pid,) = await born()
        os.kill(pid, signal.SIGKILL)
        assert await reading == HEAVY
        os.kill(*pids(), signal.SIGKILL)  # type: ignore[call-arg]
        assert await read(pool, LIGHT) == LIGHT, "what an idle one dies of is nobody's body"

    run(use)


def test_a_body_that_ends_two_processes_is_not_given_to_a_third() -> None:
    async def use(pool: CodecPool) -> None:
        reading = asyncio.ensure_future(read(pool, HEAVY))
        killed = set[int]()
        while not reading.done():
            for pid in set(pids()) - killed:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                killed.add(pid)
            await asyncio.sleep(0.01)
        with pytest.raises(WorkerDied, match="the process that had the large body"):
            await reading
        assert len(killed) == 2
        assert await read(pool, LIGHT) == LIGHT

    run(use)


def test_a_process_that_hangs_is_ended() -> None:
    async def use(pool: CodecPool) -> None:
        reading = asyncio.ensure_future(read(pool, HEAVY))
        stopped = set[int]()
        while not reading.done():
            for pid in set(pids()) - stopped:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSTOP)
                stopped.add(pid)
            await asyncio.sleep(0.01)
        with pytest.raises(WorkerDied, match=r"took longer than 0\.5 s"):
            await reading

    run(use, limit_seconds=0.5)


def test_heavy_work_never_has_all_processes_and_none_waits_for_all_of_the_other() -> None:
    done: list[str] = []

    async def note(pool: CodecPool, name: str, count: int) -> None:
        await read(pool, count)
        done.append(name)

    async def use(pool: CodecPool) -> None:
        await read(pool, LIGHT)
        heavy = [asyncio.ensure_future(note(pool, f"heavy {i}", HEAVY)) for i in range(3)]
        await asyncio.sleep(0)
        light = [asyncio.ensure_future(note(pool, f"light {i}", LIGHT)) for i in range(3)]
        await asyncio.gather(*light)
        assert [name for name in done if name.startswith("light")] == ["light 0", "light 1", "light 2"]
        assert len(done) < 6, "light work waited for heavy work"
        await asyncio.gather(*heavy)
        assert [name for name in done if name.startswith("heavy")] == ["heavy 0", "heavy 1", "heavy 2"]
        assert len(pids()) == 2

    run(use, most=2)


def test_who_leaves_leaves_a_process_that_serves_on() -> None:
    async def use(pool: CodecPool) -> None:
        running = asyncio.ensure_future(read(pool, HEAVY))
        waiting = asyncio.ensure_future(read(pool, HEAVY))
        await born()
        for left in (running, waiting):
            left.cancel()
            with pytest.raises(asyncio.CancelledError):
                await left
        assert await read(pool, HEAVY) == HEAVY
        assert len(pids()) == 1

    run(use, most=2)


def test_what_waits_is_bounded() -> None:
    async def use(pool: CodecPool) -> None:
        running = asyncio.ensure_future(read(pool, HEAVY))
        await born()
        waiting = asyncio.ensure_future(read(pool, HEAVY))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="bytes of large bodies wait to be read already; try again"):
            await read(pool, LIGHT)
        assert list(await asyncio.gather(running, waiting)) == [HEAVY, HEAVY]
        assert await read(pool, LIGHT) == LIGHT

    run(use, most=1, waiting_bytes=2 * HEAVY)


def test_the_end_of_the_server_is_the_end_of_what_waits() -> None:
    async def use(pool: CodecPool) -> None:
        reading = [asyncio.ensure_future(read(pool, HEAVY)) for _ in range(3)]
        await born()
        await pool.close()
        for outcome in await asyncio.gather(*reading, return_exceptions=True):
            assert isinstance(outcome, WorkerDied | Unavailable)

    run(use, most=1)


def test_files_are_copied_whole_whoever_copies_them() -> None:
    async def use(pool: CodecPool) -> None:
        for size in (0, 10, 9_000_000):
            file = await pool.filed([b"a" * size, memoryview(b"bc")])
            assert bytes(view(file.fd)) == b"a" * size + b"bc"

    run(use)
