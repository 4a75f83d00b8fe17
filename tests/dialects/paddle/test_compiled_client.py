"""paddle_serving_client's compiled `Client`, as it is, and what it sends and reads byte by byte."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pdserver.prpc.errors import Errno
from tests.conftest import Lent
from tests.dialects.paddle.conftest import pack_uci
from tests.dialects.paddle.tensors import PACKAGE, ROW, Response
from tests.paddle_clients import PaddleClients
from tests.paddle_clients import compiled_client as compiled_client
from tests.paddle_clients import paddle_clients as paddle_clients
from tests.prpc_client import Prpc
from tests.running import RunningServer, free_ports

RECORDED = bytes.fromhex(
    "50525043000000ad000000590a4f0a4062616964752e706164646c655f73657276696e672e707265646963746f722e67656e6572616c5f6d"
    "6f64656c2e47656e6572616c4d6f64656c536572766963651209696e666572656e6365180018002082808080200a491234f775603c1ea7e8"
    "bdaeb6823ebbb88dbd20636e3dbde394bd651922bed7346fbd45d8203f51dafb3eed0d3e3ee5d0a23db9fc07bd50015a02010d6a01787208"
    "6665617475726573120570726963652007"
)
"""What the client sends for the tutorials' row (paddle_serving_client 0.9.0)."""
METHOD = f"{PACKAGE}.GeneralModelService/inference"
FIT = """
feed_var { name: "x" alias_name: "features" is_lod_tensor: false feed_type: 1 shape: 13 }
fetch_var { name: "fc_0.tmp_1" alias_name: "price" is_lod_tensor: false fetch_type: 1 shape: 1 }
"""
NUMBERS = {"int64": 0, "float32": 1, "int32": 2, "float16": 5, "uint8": 7, "int8": 8}
BEFORE = """
from paddle_serving_client import Client
import numpy as np

def client(*endpoints):
    made = Client()
    made.load_client_config(sys.argv[1])
    made.set_rpc_timeout_ms(20000)
    made.connect(list(endpoints))
    return made

def end(value):
    give(value)
    os._exit(0)  # its threads crash now and then when Python ends

first, second, nobody = sys.argv[2:5]
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, fit_model: Path) -> Iterator[RunningServer]:
    """Of the tutorials' model."""
    folder = tmp_path_factory.mktemp("compiled")
    store = folder / "store"
    store.mkdir()
    pack_uci(store, fit_model)
    [port] = free_ports(1)
    settings = {"paddle_serving_address": f"http://127.0.0.1:{port}"}
    with RunningServer(folder / "server", store, "all", settings) as server:
        yield server


def answered(server: RunningServer, compiled_client: PaddleClients, tmp_path: Path, config: str, script: str) -> Any:
    """What the script gives. It knows the server's two ports with this protocol, and one on which nobody listens."""
    (tmp_path / "serving_client_conf.prototxt").write_text(config)
    second = server.settings.get("paddle_serving_address", server.inference)
    ports = [server.inference, second, f"http://127.0.0.1:{free_ports(1)[0]}"]
    addresses = [port.removeprefix("http://") for port in ports]
    return compiled_client.run(BEFORE + script, tmp_path, *addresses, folder=tmp_path)


def price(fit_model: Path, rows: Any) -> Any:
    """What the model is to answer."""
    weights = np.load(fit_model / "weights.npz")
    return np.asarray(rows, "float32").reshape(-1, 13) @ weights["w"] + weights["b"]


def array(given: dict[str, Any]) -> Any:
    return np.array(given["data"], given["dtype"]).reshape(given["shape"])


def test_predictions_of_the_tutorials_model(
    server: RunningServer, compiled_client: PaddleClients, fit_model: Path, tmp_path: Path
) -> None:
    script = f"""
row = np.array({ROW}, "float32")
rows = np.arange(26, dtype="float32").reshape(2, 13) / 8
one = client(first)
found = {{
    "names": [one.get_feed_names(), one.get_fetch_names()],
    "one": one.predict(feed={{"features": row}}, fetch=["price"]),
    "in a list": one.predict(feed=[{{"features": row}}], fetch="price"),
    "all": one.predict(feed={{"features": row}}),
    "batch": one.predict(feed={{"features": rows}}, fetch=["price"], batch=True, log_id=10000),
    "again": [one.predict(feed={{"features": row}}, fetch=["price"])["price"] for _ in range(20)],
    "lod": one.predict(feed={{"features": rows.ravel(), "features.lod": [0, 13, 26]}}, fetch=["price"], batch=True),
    "uneven": one.predict(feed={{"features": rows.ravel(), "features.lod": [0, 12, 26]}}, fetch=["price"], batch=True),
    "wrong": one.predict(feed={{"features": np.zeros((1, 2, 3), "float32")}}, fetch=["price"], batch=True),
    "after": one.predict(feed={{"features": row}}, fetch=["price"]),
    "both ports": [client(first, second).predict(feed={{"features": row}}, fetch=["price"])["price"] for _ in range(4)],
    "one is down": client(nobody, second).predict(feed={{"features": row}}, fetch=["price"]),
    "all are down": client(nobody).predict(feed={{"features": row}}, fetch=["price"]),
}}
tagged = Client()
tagged.load_client_config(sys.argv[1])
tagged.add_variant("old", [first], 50)
tagged.add_variant("new", [second], 50)
tagged.connect()
asked = [tagged.predict(feed={{"features": row}}, fetch=["price"], need_variant_tag=True) for _ in range(40)]
found["tags"] = sorted({{tag for _, tag in asked}})
found["variants"] = [result["price"] for result, _ in asked]
end(found)
"""
    found = answered(server, compiled_client, tmp_path, FIT, script)
    expected, two = price(fit_model, ROW), price(fit_model, np.arange(26) / 8)
    assert found["names"] == [["features"], ["price"]]
    for name in ("one", "in a list", "all", "after", "one is down"):
        assert set(found[name]) == {"price"}, name
        np.testing.assert_allclose(array(found[name]["price"]), expected, rtol=1e-5)
    for each in (*found["again"], *found["both ports"], *found["variants"]):
        np.testing.assert_allclose(array(each), expected, rtol=1e-5)
    for name in ("batch", "lod"):
        np.testing.assert_allclose(array(found[name]["price"]), two, rtol=1e-5)
    assert found["wrong"] is found["uneven"] is found["all are down"] is None
    assert found["tags"] == ["new", "old"]


def test_numbers_of_every_type(lent: Lent, compiled_client: PaddleClients, tmp_path: Path) -> None:
    """Those that travel as they are in memory have the shape that the client's configuration says."""
    variables = "".join(
        f'{kind}_var {{ name: "{name}" alias_name: "{name}" {kind}_type: {number} shape: 1 shape: 3 }}\n'
        for kind in ("feed", "fetch")
        for name, number in NUMBERS.items()
    )
    script = f"""
feed = {{name: np.array([[0, 1, 100]], name) for name in {list(NUMBERS)}}}
feed["float16"] += np.float16(0.5)
feed["int64"][0, 0] = -(2**62)
one = client(first)
end([
    one.predict(feed=dict(feed), batch=True),
    one.predict(feed=dict(feed), fetch=["uint8", "float16"], batch=True),
    {{name: value.astype("float64") if name == "float16" else value for name, value in feed.items()}},
])
"""
    everything, some, given = answered(lent("kinds"), compiled_client, tmp_path, variables, script)
    assert list(some) == ["uint8", "float16"]
    assert set(everything) == set(NUMBERS)
    for found in (everything, some):
        for name, value in found.items():
            assert value["dtype"] == name
            np.testing.assert_array_equal(array(value), array(given[name]))


def test_what_the_client_sends_is_answered(server: RunningServer, fit_model: Path) -> None:
    """Byte by byte, where the client itself can't be had."""
    for port in (server.inference, server.settings["paddle_serving_address"]):
        with Prpc(port) as client:
            for _ in range(3):
                client.send(RECORDED)
                answer = client.answer()
                assert (answer.number, answer.errno, answer.compress_type) == (0x2_0000_0002, 0, 0)
                [output] = Response.FromString(answer.body).outputs
                [tensor] = output.tensor
                np.testing.assert_allclose(tensor.float_data, price(fit_model, ROW)[0], rtol=1e-5)
                assert (tensor.alias_name, list(tensor.shape)) == ("price", [1, 1])
            message = RECORDED[12 + 0x59 :]
            answer = client.call(METHOD, message, 2, user_fields={"model-name": "nowhere"})
            assert (answer.errno, "nowhere" in answer.text) == (Errno.ENOSERVICE, True)
            assert client.call(METHOD, message, 3, user_fields={"Model-Name": "uci"}).errno == 0
