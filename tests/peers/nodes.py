"""Real servers that know one another by files of peers."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from pdserver.peers.base import Addresses, Peers, Route
from pdserver.types import ModelRef
from tests.running import RunningServer, eventually
from tests.without_paddle import no_paddle


def addresses_of(server: RunningServer) -> Addresses:
    return Addresses(server.inference, server.management, server.metrics, server.grpc_inference)


def route(
    name: str, *nodes: str, version: str = "1.0", default: bool = True, sequences: bool = False, contract: str = ""
) -> Route:
    return Route(ModelRef(name, version), nodes, default, sequences, contract)


class Node:
    """A server with a file of peers, which is in force once `tell` returns."""

    def __init__(self, name: str, folder: Path, store: Path, models: str, **settings: str) -> None:
        self.name = name
        self.file = folder / f"{name}.json"
        self.server = RunningServer(
            folder / name, store, models, {"peers_file": str(self.file), "config_snapshots": "false", **settings}
        )

    def write(self, nodes: Mapping[str, Addresses], routes: Sequence[Route]) -> None:
        new = self.file.with_suffix(".new")
        new.write_bytes(msgspec.json.encode(Peers(self.name, nodes, tuple(routes))))
        new.chmod(0o600)
        new.replace(self.file)

    def tell(self, nodes: Mapping[str, Addresses], routes: Sequence[Route]) -> None:
        times = self.server.log().count("peers_file has changed")
        time.sleep(0.01)  # so that the file's time differs
        self.write(nodes, routes)
        eventually(lambda: self.server.log().count("peers_file has changed") > times)

    @property
    def said(self) -> Peers:
        """What the file says."""
        return msgspec.json.decode(self.file.read_bytes(), type=Peers)

    def forwarded(self, peer: str, outcome: str) -> float:
        """How often, as the metrics say."""
        text = self.server.session.get(f"{self.server.metrics}/metrics", timeout=60).text
        start = f'pd_forwarded_total{{peer="{peer}",outcome="{outcome}",}} '
        return sum(float(line.removeprefix(start)) for line in text.splitlines() if line.startswith(start))


@contextlib.contextmanager
def running(
    folder: Path, nodes: Sequence[Node], routes: Sequence[Route], others: Mapping[str, Addresses]
) -> Iterator[dict[str, Addresses]]:
    """The nodes, all with the same routes, where there is no Paddle. Gives where each is."""
    addresses = {**{node.name: addresses_of(node.server) for node in nodes}, **others}
    (folder / "site").mkdir()
    with contextlib.ExitStack() as stack:
        with no_paddle(folder / "site"):
            for node in nodes:
                node.write(addresses, routes)
                stack.callback(node.server.stop)
            with ThreadPoolExecutor() as threads:
                list(threads.map(lambda node: node.server.start(), nodes))
        yield addresses
