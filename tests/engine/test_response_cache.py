"""What is kept, for whom, and for how long."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pdserver.engine.queue import AwaitedCall
from pdserver.engine.response_cache import MOST_HASHED_BYTES, ModelCache, ResponseCache, key_of
from pdserver.memory_file import MemoryFile
from pdserver.metrics.counters import ModelMetrics
from pdserver.types import Outcome, Output, Part, Reply, Request, Tensor


def tensor(name: str = "x", data: bytes = b"\0" * 8, **how: Any) -> Tensor:
    return Tensor(name, "float32", (2,), data, **how)


def request(*inputs: Tensor | Part, **how: Any) -> Request:
    return Request("m", None, "id", list(inputs), **{"typed": True, **how})


def reply(size: int) -> Reply:
    return Reply(b"", "", tensors=[Tensor("y", "uint8", (size,), bytes(size))])


def test_the_same_question_has_the_same_key() -> None:
    one = request(tensor("x"), tensor("y"))
    assert key_of(one) == key_of(request(tensor("y"), tensor("x"), headers=[(b"a", b"b")], timeout_seconds=1.0))
    assert len(key_of(one)) == 16


@pytest.mark.parametrize(
    "other",
    [
        request(tensor(data=b"\1" * 8)),
        request(tensor("z")),
        request(Tensor("x", "float32", (1, 2), b"\0" * 8)),
        request(Tensor("x", "int32", (2,), b"\0" * 8)),
        request(tensor(), outputs=(Output("y"),)),
        request(tensor(), outputs=(Output("y", classes=2),)),
        request(tensor(), parameters={"top": 1}),
        request(tensor(), parameters={"top": True}),
    ],
)
def test_another_question_has_another_key(other: Request) -> None:
    assert key_of(other) != key_of(request(tensor()))


def test_large_tensors_count_by_what_is_in_their_file() -> None:
    with_file = MemoryFile([b"head", b"\0" * 8])
    files = [with_file.seal()]
    beside = request(tensor(data=b"", file=0, start=4, size=8), files=files)
    assert key_of(beside) == key_of(request(tensor()))
    with_file.close()


def test_inputs_that_take_long_to_compare_have_no_key() -> None:
    for size, length in ((MOST_HASHED_BYTES, 16), (MOST_HASHED_BYTES + 1, 0)):
        assert len(key_of(request(Tensor("x", "uint8", (size,), bytes(size))))) == length


@pytest.mark.parametrize("other", [request(Part("body", "", b""), typed=False), request(tensor(), verb="explain")])
def test_some_questions_have_no_key(other: Request) -> None:
    assert key_of(other) == b""


def test_what_was_not_asked_for_longest_goes_first() -> None:
    cache = ResponseCache(4096)
    for name in (b"a", b"b", b"c"):
        cache.put(1, name, reply(800))
    assert cache.get(1, b"a") is not None
    cache.put(1, b"d", reply(800))
    assert [name for name in (b"a", b"b", b"c", b"d") if cache.get(1, name)] == [b"a", b"c", b"d"]


def test_an_answer_that_is_too_large_is_not_kept() -> None:
    cache = ResponseCache(1000)
    cache.put(1, b"a", reply(100))
    cache.put(1, b"b", reply(1000))
    assert cache.get(1, b"b") is None
    assert cache.get(1, b"a") is not None


def test_an_answer_that_comes_again_takes_the_others_place() -> None:
    cache = ResponseCache(4096)
    for _ in range(100):
        cache.put(1, b"a", reply(1000))
    cache.put(1, b"b", reply(1000))
    assert cache.get(1, b"a") is not None


def test_nobody_sees_what_another_kept() -> None:
    cache = ResponseCache(4096)
    cache.put(1, b"a", reply(1))
    cache.put(2, b"b", reply(1))
    assert (cache.get(2, b"a"), cache.get(1, b"b")) == (None, None)
    cache.forget(1)
    assert (cache.get(1, b"a"), len(cache)) == (None, 1)


async def ask(cache: ModelCache, one: Request) -> tuple[bool, Outcome | None]:
    """Whether the cache answers, and with what."""
    call = AwaitedCall(one)
    if cache.answers(call):
        return True, await call.outcome
    cache.keep(call, reply(3))
    return False, None


def test_an_answer_is_given_again_and_counted() -> None:
    metrics = ModelMetrics()
    cache = ResponseCache(4096).share(metrics)
    assert asyncio.run(ask(cache, request(tensor()))) == (False, None)
    assert asyncio.run(ask(cache, request(tensor()))) == (True, reply(3))
    assert (metrics.succeeded, metrics.statistics.cache_hits, metrics.statistics.cache_misses) == (1, 1, 1)
