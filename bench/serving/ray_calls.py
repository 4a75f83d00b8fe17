"""What calls of a Ray actor cost, as the controller of a cluster makes them. Reads the answer that it gets, pickled."""

from __future__ import annotations

import asyncio
import json
import pickle
import sys
import time
from typing import Any

import ray

from pdserver.cluster.base import PIECE_BYTES

_AT_ONCE, _SECONDS = 100, 2.0


@ray.remote(num_cpus=0, max_concurrency=1000)
class Node:
    def __init__(self, status: bytes) -> None:
        self._status = pickle.loads(status)
        self._piece = bytes(PIECE_BYTES)

    async def status(self) -> Any:
        return self._status

    async def piece(self) -> bytes:
        return self._piece


async def rate(call: Any, at_once: int) -> tuple[float, float]:
    """Calls per second, and CPU seconds for each."""
    done, started, before = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - started < _SECONDS:
        await asyncio.gather(*(call.remote() for _ in range(at_once)))
        done += at_once
    return done / (time.perf_counter() - started), (time.process_time() - before) / done


async def main(status: bytes) -> None:
    node = Node.remote(status)
    await node.status.remote()
    calls, cpu = await rate(node.status, _AT_ONCE)
    pieces, _ = await rate(node.piece, 2)
    values = {"calls_per_second": calls, "cpu_us_per_call": cpu * 1e6, "mb_per_second": pieces * PIECE_BYTES / 1e6}
    print(json.dumps(values), flush=True)


if __name__ == "__main__":
    given = sys.stdin.buffer.read()
    # A Ray cluster of somebody else may run on this machine.
    ray.init("local", num_cpus=1, object_store_memory=200 * 2**20, include_dashboard=False, log_to_driver=False)
    try:
        asyncio.run(main(given))
    finally:
        ray.shutdown()
