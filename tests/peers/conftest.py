"""Three nodes that the tests of this folder share: `a` has two models, `b` and `c` have others; `c` has two front ends.

`only_b` is x · [[1, 2], [3, 4]]. `fake` and `gone` are nodes, too: one answers as a test says, nobody is at the other.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from pdserver.peers.base import Addresses, Route
from tests.conftest import pack_handler
from tests.onnx_files import linear
from tests.peers.fake_calls import FakeCalls
from tests.peers.fake_node import FakeNode
from tests.peers.nodes import Node, route, running
from tests.running import free_ports

FOR_B = ("fake_or_b", "fake_sequences", "gone_or_b", "late")
ROUTES: list[Route] = [
    route("own", "a"),
    route("own", "b", version="2.0", default=False),
    route("moved", "a", default=False),
    route("moved", "b", version="2.0"),
    *(route(name, "b", "c") for name in ("stream", "mirror")),
    *(route(name, "b") for name in ("only_b", "chaos")),
    route("ghost", "a", "b"),
    route("late", "a", "b"),
    route("fake", "fake"),
    route("gone", "gone"),
    route("reader", "fake", contract="paddlex/ocr"),
    route("fake_or_b", "fake", "b"),
    *(route(name, name.partition("_")[0], "b", sequences=True) for name in ("fake_sequences", "gone_or_b")),
]


@pytest.fixture(scope="package")
def fake() -> Iterator[FakeNode]:
    node = FakeNode()
    yield node
    node.close()


@pytest.fixture(scope="package")
def fake_calls() -> Iterator[FakeCalls]:
    node = FakeCalls()
    yield node
    node.close()


@pytest.fixture(scope="package")
def nodes(tmp_path_factory: pytest.TempPathFactory, fake: FakeNode, fake_calls: FakeCalls) -> Iterator[dict[str, Node]]:
    folder = tmp_path_factory.mktemp("peers")
    store = folder / "store"
    store.mkdir()
    for name in ("stream", "mirror", "chaos", "own", "moved", *FOR_B):
        handler = name if name in ("stream", "chaos") else "mirror"
        pack_handler(store, handler, name).rename(store / f"{name}-1.pdar")
    for name in ("own", "moved"):
        pack_handler(store, "chaos", name, "2.0").rename(store / f"{name}-2.pdar")
    weight = np.array([[1, 2], [3, 4]], np.float32)
    pack_handler(store, "base_handler", "only_b", serialized_file=linear(folder / "linear.onnx", weight))
    both = "stream-1.pdar,mirror-1.pdar"
    of_b = ["only_b.pdar", "chaos-1.pdar", "own-2.pdar", "moved-2.pdar", *(f"{name}-1.pdar" for name in FOR_B)]
    found = {
        "a": Node("a", folder, store, "own-1.pdar,moved-1.pdar"),
        "b": Node("b", folder, store, ",".join([both, *of_b])),
        "c": Node("c", folder, store, both, front_ends="2"),
    }
    [port] = free_ports(1)
    gone = Addresses(f"http://127.0.0.1:{port}", "", "", f"127.0.0.1:{port}")
    with running(
        folder, list(found.values()), ROUTES, {"fake": Addresses(fake.url, "", "", fake_calls.address), "gone": gone}
    ):
        yield found
