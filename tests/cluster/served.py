"""Three real servers as the nodes of a cluster, without the cluster, and a real HAProxy in front of them."""

from __future__ import annotations

import asyncio
import csv
import io
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from pdarchiver.pack import PackOptions, pack
from pdserver.cluster.base import EntranceView
from pdserver.cluster.entrance import HaproxyEntrance, Settings
from pdserver.cluster.haproxy import Options
from pdserver.configuration.values import Address
from pdserver.peers.base import Addresses, Route
from pdserver.types import ModelRef
from tests.conftest import pack_handler
from tests.onnx_files import linear
from tests.running import RunningServer
from tests.without_paddle import no_paddle

T = TypeVar("T")
NODES = ("a", "b", "c")
COUNTER = "sequenceBatching: true\nmaxNumSequence: 100\nmaxSequenceJobQueueSize: 100\n"
WIDTH = 50_000
"""Of the input of `wide`: a request is larger than what HAProxy has in memory of it."""
PLAIN = {name: Address("127.0.0.1", 0) for name in ("inference", "grpc", "management", "metrics", "grpc_management")}


class Loop:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def __call__(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    def close(self) -> None:
        self(self._end_others())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end_others(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)


class Served:
    """The servers by the names of their nodes. Node number n (from 1) answers n·x for `scale`, version 1, and 10·n·x
    for version 2, so that an answer tells who gave it; `wide` answers n times the sum of x. `counter` has sequences."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.servers = {node: self._server(number + 1, node) for number, node in enumerate(NODES)}

    def _server(self, number: int, node: str) -> RunningServer:
        store = self._folder / node / "store"
        store.mkdir(parents=True)
        for version, factor in (("1", number), ("2", 10 * number)):
            model = linear(store.parent / f"scale{version}.onnx", np.array([[factor]], np.float32))
            options = PackOptions(model_name="scale", version=version, serialized_file=model, export_path=store)
            pack(options).rename(store / f"scale-{version}.pdar")
        model = linear(store.parent / "wide.onnx", np.full((WIDTH, 1), number, np.float32))
        pack(PackOptions(model_name="wide", version="1", serialized_file=model, export_path=store))
        pack_handler(store, "counter", config=COUNTER)
        pack_handler(store, "chaos")
        own = ["scale=scale-2.pdar", "wide.pdar"] if node == "c" else ["scale=scale-1.pdar"]
        loaded = ",".join([*own, "counter=counter.pdar", "chaos=chaos.pdar"])
        return RunningServer(store.parent / "server", store, loaded, {"disable_system_metrics": "true"})

    def start(self) -> None:
        with no_paddle(self._folder), ThreadPoolExecutor(3) as threads:
            list(threads.map(RunningServer.start, self.servers.values()))

    def view(self, draining: str = "") -> EntranceView:
        """`scale` 1 is on a and b, `scale` 2 and `wide` on c, the rest everywhere."""
        addresses = {
            node: Addresses(each.inference, each.management, each.metrics, each.grpc_inference)
            for node, each in self.servers.items()
        }
        routes = (
            Route(ModelRef("scale", "1"), ("a", "b"), True),
            Route(ModelRef("scale", "2"), ("c",), False),
            Route(ModelRef("wide", "1"), ("c",), True),
            Route(ModelRef("counter", "1.0"), NODES, True, True),
            Route(ModelRef("chaos", "1.0"), NODES, True),
        )
        manages = self.servers["a"]
        return EntranceView(addresses, frozenset(draining), routes, manages.management, manages.grpc_management)


@contextmanager
def served(folder: Path) -> Iterator[Served]:
    found = Served(folder)
    with ExitStack() as stack:
        found.start()
        for server in found.servers.values():
            stack.callback(server.stop)
        yield found


class Entered:
    """An entrance that runs in an event loop of its own."""

    def __init__(self, loop: Loop, entrance: HaproxyEntrance) -> None:
        self.run = loop
        self.entrance = entrance
        self.url = f"http://{entrance.addresses['inference']}"
        self.grpc = entrance.addresses.get("grpc", "")

    def show(self, view: EntranceView) -> None:
        self.run(self.entrance.show(view))

    def servers(self) -> Mapping[tuple[str, str], Mapping[str, str]]:
        """HAProxy's figures by backend and node; those of a backend by "BACKEND"."""
        rows = csv.DictReader(io.StringIO(self.run(self.entrance.statistics()).decode().removeprefix("# ")))
        return {(row["pxname"], row["svname"]): row for row in rows}

    def counts(self) -> Mapping[tuple[str, str], int]:
        """Requests so far, likewise."""
        return {name: int(row["stot"]) for name, row in self.servers().items()}

    def backend(self, ask: Callable[[], object]) -> str:
        """Which backend gets the request."""
        before = self.counts()
        ask()
        [found] = {
            backend
            for (backend, server), count in self.counts().items()
            if server == "BACKEND" and count > before[backend, server]
        }
        return found


@contextmanager
def entered(folder: Path, settings: Settings | None = None) -> Iterator[Entered]:
    loop = Loop()
    entrance = HaproxyEntrance(folder, settings or Settings(addresses=PLAIN, options=Options(threads=1)))
    try:
        loop(entrance.open())
        yield Entered(loop, entrance)
    finally:
        loop(entrance.close())
        loop.close()
