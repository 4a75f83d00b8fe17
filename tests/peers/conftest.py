"""Three nodes that the tests of this folder share: `a` has one model, `b` and `c` have all others.

`only_b` is x · [[1, 2], [3, 4]].
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from pdserver.peers.base import Route
from tests.conftest import pack_handler
from tests.onnx_files import linear
from tests.peers.nodes import Node, route, running

ROUTES: list[Route] = [
    route("own", "a"),
    *(route(name, "b", "c") for name in ("echo", "stream", "mirror")),
    route("only_b", "b"),
    route("stateful", "b", "c", sequences=True),
]


@pytest.fixture(scope="package")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Node]]:
    folder = tmp_path_factory.mktemp("peers")
    store = folder / "store"
    store.mkdir()
    for handler, name in (("echo", "echo"), ("stream", "stream"), ("mirror", "mirror"), ("mirror", "own")):
        pack_handler(store, handler, name)
    weight = np.array([[1, 2], [3, 4]], np.float32)
    pack_handler(store, "base_handler", "only_b", serialized_file=linear(folder / "linear.onnx", weight))
    pack_handler(store, "counter", "stateful", config="sequenceBatching: true\nmaxNumSequence: 4\nbatchSize: 4\n")
    shared = "echo.pdar,stream.pdar,mirror.pdar,stateful.pdar"
    found = {
        "a": Node("a", folder, store, "own.pdar"),
        "b": Node("b", folder, store, f"{shared},only_b.pdar"),
        "c": Node("c", folder, store, shared),
    }
    with running(folder, list(found.values()), ROUTES):
        yield found
