"""ONNX models that are broken, or mean ill: refused with a reason, while the server goes on."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from pdarchiver.pack import PackOptions, pack
from pdserver.handlers.runtime.rowwise.proof import of_file
from tests.onnx_files import attribute, linear, model, node
from tests.pdarchiver.crafting import Crafted, Item
from tests.running import RunningServer
from tests.security.onnx_models import BOMBS, BROKEN, X, Y
from tests.without_paddle import running_without_paddle

ENGINES = ("onnxruntime", "openvino", "auto")
_TELLS_TOO_MUCH = re.compile(r"Traceback|/root/|/home/|/tmp/|run-[^/ ]+/|site-packages|object at 0x")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("onnx")
    (folder / "store").mkdir()
    good = linear(folder / "good.onnx", np.ones((4, 2), np.float32))
    pack(
        PackOptions(
            model_name="good", version="1.0", handler="base_handler", serialized_file=good,
            export_path=folder / "store",
        )
    )  # fmt: skip
    with running_without_paddle(folder, folder / "store") as server:
        yield server


def packed(data: bytes, engine: str) -> bytes:
    """As no archiver packs it."""
    ports = [{"name": name, "source": name, "dtype": "float32", "shape": [-1, 4]} for name in "xy"]
    manifest = {
        "runtime": "python",
        "model": {"modelName": "bad", "modelVersion": "1.0", "handler": "base_handler",
                  "serializedFile": "model.onnx", "configFile": "m.yaml"},
        "signature": {"inputs": ports[:1], "outputs": ports[1:]},
    }  # fmt: skip
    config = f"predictor: {{engine: {engine}}}\n".encode()
    items = [Item(b"model.onnx", data), Item(b"m.yaml", config)]
    return Crafted([*items, Item(b"MAR-INF/MANIFEST.json", json.dumps(manifest).encode())], with_manifest=False).bytes()


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_model_is_refused(server: RunningServer, name: str) -> None:
    """By one engine, or by both, in turn."""
    (data, words), number = BROKEN[name], list(BROKEN).index(name)
    archive = Path(server.settings["model_store"], "bad.pdar")
    archive.write_bytes(packed(data, ENGINES[number % len(ENGINES)]))
    answer = requests.post(f"{server.management}/models?url=bad.pdar&initial_workers=1&synchronous=true", timeout=60)
    message = answer.json()["message"]
    assert answer.status_code in (400, 500), answer.text
    assert words in message
    assert not _TELLS_TOO_MUCH.search(message), message
    assert requests.get(f"{server.management}/models/bad", timeout=60).status_code == 404
    assert server.predict("good", json={"x": [1, 2, 3, 4]}).json() == {"y": [10, 10]}


@pytest.mark.parametrize("name", [*BROKEN, *BOMBS])
def test_of_such_a_model_nothing_is_claimed(tmp_path: Path, name: str) -> None:
    """And it is read in no time, whatever it says: its operations are not carried out."""
    data = BOMBS[name] if name in BOMBS else BROKEN[name][0]
    (tmp_path / "model.onnx").write_bytes(data)
    proof = of_file(tmp_path / "model.onnx", ())
    if "weights" not in name:  # whose rows are rows, if they ever are loaded
        assert proof.first_axis("y") == "unknown"


GOOD = model(
    [X],
    [Y],
    [
        node("Shape", ["x"], ["s"]),
        node("Reshape", ["x", "s"], ["r"]),
        node("Softmax", ["r"], ["y"], attribute("axis", 1)),
    ],
)


@given(data=st.binary(max_size=12), at=st.integers(0, len(GOOD)))
def test_any_operations_are_followed_or_left(tmp_path_factory: pytest.TempPathFactory, data: bytes, at: int) -> None:
    path = tmp_path_factory.getbasetemp() / "any_operations.onnx"
    path.write_bytes(GOOD[:at] + data + GOOD[at + len(data) :])
    assert of_file(path, ()).first_axis("y") in ("batch", "other", "unknown")
