"""The node and the fake of the controller's tests keep the same contract."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from pdserver.cluster.base import Archive, Holder, Node
from pdserver.cluster.node import NodeAgent, NodeOptions
from pdserver.types import ModelRef
from tests.cluster import virtual
from tests.cluster.fakes import World
from tests.cluster.node_contract import Bench, NodeContract
from tests.conftest import pack_handler
from tests.without_paddle import without_paddle as without_paddle


class FakeBench(Bench):
    def __init__(self) -> None:
        self.world = World(1)
        self.node: Node = self.world.members["n1"]
        self.holder: Holder = self.world.models

    def archive(self, ref: ModelRef, *, other: bool = False, broken: bool = False) -> Archive:
        url = f"{ref.name}-{ref.version}-{20 if other else 10}.pdar"
        self.world.models.broken |= {url} if broken else set()
        digest = hashlib.sha256(url.encode()).hexdigest()
        self.world.models.kept[digest] = url
        return Archive(digest, url, len(url))


class TestFakeNode(NodeContract):
    @asynccontextmanager
    async def bench(self) -> AsyncIterator[Bench]:
        yield FakeBench()

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        virtual.run(work)


class RealBench(Bench):
    def __init__(self, folder: Path) -> None:
        self.agent = NodeAgent(folder / "node", NodeOptions(node="n1"))
        self.node: Node = self.agent
        self.holder: Holder = self
        self._folder = folder / "library"
        self._folder.mkdir()
        self._contents: dict[str, bytes] = {}

    def archive(self, ref: ModelRef, *, other: bool = False, broken: bool = False) -> Archive:
        handler = "unloadable" if broken else "echo"
        config = "why: no memory" if broken else f"other: {str(other).lower()}"
        path = pack_handler(self._folder, handler, ref.name, ref.version, config)
        content = path.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        self._contents[digest] = content
        return Archive(digest, path.name, len(content))

    async def piece(self, sha256: str, offset: int) -> bytes:
        return self._contents.get(sha256, b"")[offset:]


@pytest.mark.usefixtures("without_paddle")
class TestRealNode(NodeContract):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self._path = tmp_path

    def bench(self) -> AbstractAsyncContextManager[Bench]:
        return _real(self._path)

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run(work)


@asynccontextmanager
async def _real(folder: Path) -> AsyncIterator[Bench]:
    bench = RealBench(folder)
    await bench.agent.start()
    try:
        yield bench
    finally:
        await bench.agent.close()
