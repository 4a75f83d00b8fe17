"""The management ports of a cluster: a real controller, whose nodes are fakes."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import requests

from pdserver.cluster.management import ManagementPort
from pdserver.cluster.node_http import NodeHttp
from pdserver.configuration.loading import load_config
from tests.cluster.fakes import World, running
from tests.cluster.served import Loop


class Managed:
    """A cluster's management port."""

    def __init__(self, folder: Path, environment: Mapping[str, str] | None = None, **settings: str) -> None:
        self.run = Loop()
        self.folder = folder
        given = {
            "management_address": "http://127.0.0.1:0",
            "grpc_management_port": "0",
            "model_store": str(folder),
            **settings,
        }
        self._config = load_config(given, environment or {})
        self._stack = contextlib.AsyncExitStack()
        self.world: World
        self.url = self.grpc = ""

    def names(self) -> list[str]:
        """Of the archives of the store."""
        return ["fit-1-10.pdar", "other.pdar"]

    @contextlib.asynccontextmanager
    async def _opened(self) -> AsyncIterator[ManagementPort]:
        self.world = World()
        self.world.load_seconds = 0.02
        async with running(self.world) as controller:
            port = ManagementPort(controller, self._config, self.folder, NodeHttp(), self.names)
            await port.open()
            try:
                yield port
            finally:
                await port.close()

    @contextlib.contextmanager
    def opened(self) -> Iterator[Managed]:
        try:
            port = self.run(self._stack.enter_async_context(self._opened()))
            self.url, self.grpc = port.url, port.grpc
            yield self
        finally:
            self.run(self._stack.aclose())
            self.run.close()

    def ask(self, method: str, path: str, **headers: str) -> requests.Response:
        return requests.request(method, self.url + path, headers=headers, timeout=60)

    def said(self, method: str, path: str) -> tuple[int, str]:
        """The status, and what is said about it."""
        answer = self.ask(method, path)
        body = answer.json()
        return answer.status_code, body.get("status") or body["message"]

    def described(self, path: str) -> list[dict[str, Any]]:
        answer = self.ask("GET", f"/models/{path}")
        assert answer.status_code == 200, answer.text
        found: list[dict[str, Any]] = answer.json()
        return found
