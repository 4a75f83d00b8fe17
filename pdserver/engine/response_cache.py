"""Answers to typed requests, kept for requests that ask the same.

All models share one limit in bytes; the answer that was asked for longest ago goes first. Models turn it on by the
setting responseCache: their answers must depend on nothing but the tensors and parameters of the request.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict

import msgspec

from pdserver.engine.queue import Call
from pdserver.memory_file import view
from pdserver.metrics.counters import ModelMetrics
from pdserver.types import Reply, Request, Tensor

_ENTRY_BYTES = 512
"""About what an answer takes besides its data."""
_DIGEST_BYTES = 16
MOST_HASHED_BYTES = 16 * 1024 * 1024
"""Of a request's inputs: a megabyte takes a millisecond, in which nobody else is served."""


class ResponseCache:
    """Owned by the event loop's thread."""

    def __init__(self, capacity_bytes: int) -> None:
        self._capacity_bytes = capacity_bytes
        self._replies: OrderedDict[tuple[int, bytes], tuple[Reply, int]] = OrderedDict()
        """By owner and key; with their size."""
        self._bytes = 0
        self._owners = 0

    def __len__(self) -> int:
        return len(self._replies)

    def share(self, metrics: ModelMetrics) -> ModelCache:
        """For one more version."""
        self._owners += 1
        return ModelCache(self, self._owners, metrics)

    def get(self, owner: int, key: bytes) -> Reply | None:
        found = self._replies.get((owner, key))
        if found is None:
            return None
        self._replies.move_to_end((owner, key))
        return found[0]

    def put(self, owner: int, key: bytes, reply: Reply) -> None:
        """An answer that is larger than the whole cache is not kept."""
        size = _ENTRY_BYTES + sum([len(tensor.data) for tensor in reply.tensors])
        if size > self._capacity_bytes:
            return
        before = self._replies.pop((owner, key), None)
        self._bytes += size - (before[1] if before else 0)
        self._replies[owner, key] = (reply, size)
        while self._bytes > self._capacity_bytes:
            _, (_, gone) = self._replies.popitem(last=False)
            self._bytes -= gone

    def forget(self, owner: int) -> None:
        for key in [key for key in self._replies if key[0] == owner]:
            self._bytes -= self._replies.pop(key)[1]


class ModelCache:
    """One version's part of the cache: whoever comes after it never sees what it has kept."""

    def __init__(self, cache: ResponseCache, owner: int, metrics: ModelMetrics) -> None:
        self._cache = cache
        self._owner = owner
        self._metrics = metrics

    def answers(self, call: Call) -> bool:
        """Whether the call is settled by what was kept: then in the next turn of the event loop, as if a worker had."""
        began = time.monotonic()
        key = key_of(call.request)
        if not key:
            return False
        reply = self._cache.get(self._owner, key)
        now = time.monotonic()
        metrics, statistics = self._metrics, self._metrics.statistics
        if reply is None:
            call.cache_key = key
            statistics.cache_misses += 1
            statistics.cache_miss_seconds += now - began
            return False
        metrics.succeeded += 1
        metrics.queue_seconds.observe(0.0)
        metrics.latency_seconds.observe(now - call.arrived)
        statistics.cache_hits += 1
        statistics.cache_hit_seconds += now - began
        asyncio.get_running_loop().call_soon(_settle, call, reply)
        return True

    def keep(self, call: Call, reply: Reply) -> None:
        """The answer to a call that `answers` was asked for, unless it came in pieces."""
        if not call.streaming:
            self._cache.put(self._owner, call.cache_key, reply)

    def forget(self) -> None:
        """Keep nothing more. Idempotent."""
        self._cache.forget(self._owner)


def _settle(call: Call, reply: Reply) -> None:
    if not call.cancelled:
        call.settle(reply)


def key_of(request: Request) -> bytes:
    """Equal for requests that ask the same; empty for one whose answer is not kept."""
    if not request.typed or request.verb != "predict":
        return b""
    if sum([given.size or len(given.data) for given in request.inputs]) > MOST_HASHED_BYTES:
        return b""
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    asked = [(output.name, output.classes) for output in request.outputs]
    tensors = sorted((given for given in request.inputs if isinstance(given, Tensor)), key=lambda given: given.name)
    heads = [(given.name, given.dtype, given.shape) for given in tensors]
    digest.update(msgspec.msgpack.encode((asked, heads, sorted(request.parameters.items()))))
    for given in tensors:
        digest.update(_data(request, given))
    return digest.digest()


def _data(request: Request, given: Tensor) -> bytes | memoryview:
    if given.file < 0:
        return given.data
    return view(request.files[given.file])[given.start : given.start + given.size]
