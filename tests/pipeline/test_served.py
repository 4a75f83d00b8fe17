"""A pipeline in a real server: a model of the store, and steps in Python, asked in several dialects."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import tritonclient.grpc
import tritonclient.http

from pdarchiver.pack import PackOptions, pack
from tests.conftest import fit_file
from tests.flow import Flow
from tests.running import RunningServer, eventually

ZOO = Path(__file__).parent / "zoo"
BAD = [1.0] * 13
DEADLY = [2.0] * 13


def pack_fit(fit_model: Path, store: Path, version: str = "1.0", config: str = "batchSize: 64\n") -> Path:
    """The model `fit`, whose output is called price."""
    written = store.parent / f"fit-{version}.yaml"
    written.write_text(f"{config}outputs: {{fetch_name_0: price}}\n")
    path = pack(
        PackOptions(
            model_name="fit",
            version=version,
            serialized_file=fit_file(fit_model),
            config_file=written,
            export_path=store,
            force=True,
        )
    )
    return path.rename(path.with_name(f"fit-{version}.pdar"))


@pytest.fixture(scope="module")
def server(fit_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("pipeline")
    store = folder / "store"
    store.mkdir()
    shutil.copytree(ZOO / "shop", store / "a_shop")  # comes before the model that it asks
    shutil.copytree(ZOO / "crowd", store / "crowd")
    pack_fit(fit_model, store)
    settings = {"job_queue_size": "2000", "models": json.dumps({"crowd": {"1.0": {"jobQueueSize": 3}}})}
    with RunningServer(folder / "server", store, settings=settings) as server:
        yield server


@pytest.fixture(scope="module")
def weights(fit_model: Path) -> Any:
    return np.load(fit_model / "weights.npz")


def houses(count: int, seed: int = 0) -> list[list[float]]:
    return np.random.default_rng(seed).random((count, 13), np.float32).round(3).tolist()  # type: ignore[no-any-return]


def priced(weights: Any, given: list[list[float]]) -> list[float]:
    return (np.asarray(given, np.float32).reshape(-1, 13) @ weights["w"] + weights["b"]).ravel().tolist()  # type: ignore[no-any-return]


def order(given: list[list[float]], **more: object) -> dict[str, Any]:
    return {"houses": given, **more}


def ask(server: RunningServer, given: list[list[float]], **more: object) -> dict[str, Any]:
    answer = server.predict("a_shop", json=order(given, **more))
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_each_item_has_its_price_in_the_order_of_the_items(server: RunningServer, weights: Any) -> None:
    given = houses(30)
    answer = ask(server, given, nonce="n")
    assert answer["prices"] == pytest.approx(priced(weights, given), rel=1e-4)
    assert answer["total"]["nonce"] == "n"
    assert answer["left_out"] == []


def test_no_items_are_an_answer_too(server: RunningServer) -> None:
    assert ask(server, [])["prices"] == []


def test_a_failed_item_is_left_out_and_reported(server: RunningServer, weights: Any) -> None:
    given = [*houses(2), BAD, *houses(1, seed=3)]
    answer = ask(server, given)
    good = [given[0], given[1], given[3]]
    assert answer["prices"] == pytest.approx(priced(weights, good), rel=1e-4)
    assert answer["total"]["where"] == [0, 1, 3]
    assert answer["left_out"] == [{"item": 2, "message": "node each/check: ValueError: a house of ones"}]


@pytest.mark.parametrize("first", [0, 45])
def test_items_that_end_workers_are_left_out_and_take_no_others_along(
    server: RunningServer, weights: Any, first: int
) -> None:
    given = houses(100)
    deadly = range(first, first + 10)
    answer = ask(server, [DEADLY if number in deadly else house for number, house in enumerate(given)])
    good = [house for number, house in enumerate(given) if number not in deadly]
    assert answer["prices"] == pytest.approx(priced(weights, good), rel=1e-4)
    assert [each["item"] for each in answer["left_out"]] == [*deadly]
    assert all("exited with status 3" in each["message"] for each in answer["left_out"])
    assert server.session.get(f"{server.inference}/v2/models/a_shop/ready").ok
    assert ask(server, given)["left_out"] == []


def test_bad_input_is_the_clients_own_fault_and_says_what_is_right(server: RunningServer) -> None:
    missing = server.predict("a_shop", {"orders": "{}"})
    assert missing.status_code == 400
    assert missing.json()["message"] == (
        '"orders" is no input of this pipeline, whose inputs are order; did you mean order?'
    )
    nothing = server.predict("a_shop", "{", headers={"content-type": "application/json"})
    assert nothing.status_code == 400


DEEP = "[" * 20_000 + "]" * 20_000


def test_thousands_of_items_are_answered_in_their_order_and_more_are_refused(server: RunningServer) -> None:
    items = list(range(3000))
    assert server.predict("crowd", json={"items": items, "go": 1}).json() == {"items": items}
    assert server.predict("crowd", json={"items": [[0] * 20] * 100, "deep": 1}).json() == {"counts": [20] * 100}
    refused = server.predict("crowd", json={"items": [[0] * 300] * 300, "deep": 1})
    assert (refused.status_code, "more than 50,000 runs of its nodes would wait" in refused.text) == (400, True)


def test_what_breaks_whoever_reads_it_takes_no_place_in_the_pipeline(server: RunningServer) -> None:
    for _ in range(3):
        for bad in ({"items": DEEP, "go": "1"}, {"items": "[1]", "go": DEEP}):
            parts = {name: (None, text, "application/json") for name, text in bad.items()}
            answer = server.predict("crowd", files=parts)
            assert answer.status_code == 400, answer.text
    assert server.predict("crowd", json={"items": [1], "go": 1}).json() == {"items": [1]}


ASKS = """
inputs: {x: json}
outputs: {y: a.body}
nodes:
  a: {model: NAME, opaque: true, inputs: {x: x}}
"""


def test_what_asks_itself_by_way_of_others_is_refused(server: RunningServer) -> None:
    store = Path(server.settings["model_store"])
    for name, asked in (("first", "fit"), ("second", "first")):
        (store / name).mkdir()
        (store / name / "pipeline.yaml").write_text(ASKS.replace("NAME", asked))
        assert server.manage("POST", f"/models?url={name}&initial_workers=1&synchronous=true").ok
    assert server.manage("DELETE", "/models/first").ok
    (store / "first" / "pipeline.yaml").write_text(ASKS.replace("NAME", "second"))
    refused = server.manage("POST", "/models?url=first&initial_workers=1&synchronous=true")
    assert refused.status_code == 400
    assert "node a: first asks second asks first: a pipeline can't ask itself" in refused.text
    assert server.manage("GET", "/models/second").ok
    assert server.manage("DELETE", "/models/second").ok


def test_items_of_many_requests_make_a_batch(server: RunningServer) -> None:
    before = server.describe("fit")
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda n: ask(server, houses(25, seed=n)), range(64)))
    statistics = server.session.get(f"{server.inference}/v2/models/fit/stats").json()["model_stats"][0]
    assert before["batchSize"] == 64
    assert max(batch["batch_size"] for batch in statistics["batch_stats"]) > 25


def test_an_answer_is_its_requests_own(server: RunningServer, weights: Any) -> None:
    def one(number: int) -> None:
        given = houses(number % 7, seed=number)
        answer = ask(server, given, nonce=number)
        assert answer["total"]["nonce"] == number
        assert answer["prices"] == pytest.approx(priced(weights, given), rel=1e-4)

    with ThreadPoolExecutor(24) as pool:
        list(pool.map(one, range(400)))


def test_tritons_clients_ask_it(server: RunningServer, weights: Any) -> None:
    given = houses(2)
    body = np.array([json.dumps(order(given)).encode()], np.object_)
    with tritonclient.http.InferenceServerClient(server.inference.removeprefix("http://")) as client:
        assert client.is_model_ready("a_shop")
        metadata = client.get_model_metadata("a_shop")
        assert [each["name"] for each in metadata["inputs"]] == ["order"]
        wanted = tritonclient.http.InferInput("order", [1], "BYTES")
        wanted.set_data_from_numpy(body)
        found = json.loads(client.infer("a_shop", [wanted]).as_numpy("prices")[0])
        assert found == pytest.approx(priced(weights, given), rel=1e-4)
    with tritonclient.grpc.InferenceServerClient(server.grpc_inference) as channel:
        asked = tritonclient.grpc.InferInput("order", [1], "BYTES")
        asked.set_data_from_numpy(body)
        only = [tritonclient.grpc.InferRequestedOutput("prices")]
        answer = channel.infer("a_shop", [asked], outputs=only)
        assert json.loads(answer.as_numpy("prices")[0]) == pytest.approx(priced(weights, given), rel=1e-4)
        assert answer.as_numpy("total") is None


def test_torchserves_grpc_asks_it(server: RunningServer, weights: Any) -> None:
    import grpc

    from tests.grpc_client import _stubs, prediction

    given = houses(2)
    with grpc.insecure_channel(server.grpc_inference) as channel:
        stub = _stubs["inference_pb2_grpc"].InferenceAPIsServiceStub(channel)
        answer = stub.Predictions(prediction("a_shop", order=json.dumps(order(given)).encode()))
    assert json.loads(answer.prediction)["prices"] == pytest.approx(priced(weights, given), rel=1e-4)


def test_tensorflow_servings_rest_asks_it(server: RunningServer, weights: Any) -> None:
    given = houses(2)
    body = {"inputs": {"order": [json.dumps(order(given))]}}
    answer = server.session.post(f"{server.inference}/v1/models/a_shop:predict", json=body)
    assert answer.status_code == 200, answer.text
    assert json.loads(answer.json()["outputs"]["prices"][0]) == pytest.approx(priced(weights, given), rel=1e-4)


def test_operators_see_each_node(server: RunningServer) -> None:
    ask(server, houses(3))
    described = server.describe("a_shop")
    nodes = {node["node"]: node for node in described["nodes"]}
    assert list(nodes) == ["open", "each/check", "each/price", "sum"]
    assert (nodes["open"]["workers"], nodes["open"]["minWorkers"], nodes["open"]["status"]) == (2, 2, "READY")
    assert nodes["each/price"]["model"] == "fit/1.0"
    assert nodes["each/check"]["requests"] >= 3
    assert server.metric("pd_workers", model_name="a_shop:open", model_version="1.0", state="ready") == 2
    assert (
        server.metric("pd_requests_total", model_name="a_shop:each/check", model_version="1.0", result="succeeded") > 0
    )


def test_a_trace_has_a_span_for_each_run_of_a_node(server: RunningServer) -> None:
    trace, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    headers = {"traceparent": f"00-{trace}-{parent}-01", "x-request-id": "traced"}
    assert server.predict("a_shop", json=order([*houses(2), BAD]), headers=headers).ok
    server.predict("a_shop", json=order(houses(1)), headers={"traceparent": f"00-{trace}-{parent}-00"})
    file = server.folder / "logs" / "traces.log"
    eventually(file.exists)
    [line] = file.read_text().splitlines()
    spans = json.loads(line)["resourceSpans"][0]["scopeSpans"][0]["spans"]
    *nodes, own = spans
    assert [span["name"] for span in nodes].count("each/check") == 3
    assert sorted({span["name"] for span in nodes}) == ["each/check", "each/price", "open", "sum"]
    assert own["parentSpanId"] == parent
    assert {span["parentSpanId"] for span in nodes} == {own["spanId"]}
    assert {span["traceId"] for span in spans} == {trace}
    assert sum("a house of ones" in span.get("status", {}).get("message", "") for span in spans) == 1
    assert all(
        int(own["startTimeUnixNano"]) <= int(span["startTimeUnixNano"]) <= int(span["endTimeUnixNano"])
        for span in nodes
    )


def test_scaling_it_scales_its_own_workers(server: RunningServer) -> None:
    assert server.manage("PUT", "/models/a_shop?min_worker=3&synchronous=true").status_code == 200
    nodes = {node["node"]: node["workers"] for node in server.describe("a_shop")["nodes"]}
    assert nodes == {"open": 3, "each/check": 3, "each/price": 1, "sum": 3}
    assert server.manage("PUT", "/models/a_shop?min_worker=1&synchronous=true").status_code == 200


def test_a_killed_worker_of_any_node_loses_no_request(server: RunningServer, weights: Any) -> None:
    flow = Flow()

    def one(number: int) -> None:
        given = houses(3, seed=number)
        with flow.request():
            answer = ask(server, given, nonce=number, slow=0.002)
        assert answer["total"]["nonce"] == number
        assert answer["prices"] == pytest.approx(priced(weights, given), rel=1e-4)
        assert not answer["left_out"]

    with flow.killing(lambda: [*server.pids("a_shop"), *server.pids("fit")]), ThreadPoolExecutor(8) as pool:
        list(pool.map(one, range(300)))
    eventually(lambda: server.ping().json()["status"] == "Healthy")


def test_a_model_is_registered_anew_while_requests_flow(server: RunningServer, fit_model: Path, weights: Any) -> None:
    store = Path(server.settings["model_store"])
    over = threading.Event()
    failures: list[str] = []

    def flow(number: int) -> None:
        while not over.is_set():
            given = houses(2, seed=number)
            try:
                assert ask(server, given)["prices"] == pytest.approx(priced(weights, given), rel=1e-4)
            except AssertionError as error:
                failures.append(str(error))

    with ThreadPoolExecutor(4) as pool:
        flows = [pool.submit(flow, number) for number in range(4)]
        try:
            pack_fit(fit_model, store, "2.0", "batchSize: 8\n")
            added = server.manage("POST", "/models?url=fit-2.0.pdar&initial_workers=1&synchronous=true")
            assert added.status_code == 200, added.text
            assert server.manage("PUT", "/models/fit/2.0/set-default").status_code == 200
            assert server.manage("DELETE", "/models/fit/1.0").status_code == 200
            time.sleep(0.3)
        finally:
            over.set()
        for each in flows:
            each.result()
    assert not failures
    assert server.describe("a_shop")["nodes"][2]["model"] == "fit/2.0"


def test_it_is_not_ready_without_a_model_that_it_asks(server: RunningServer, fit_model: Path) -> None:
    assert server.manage("DELETE", "/models/fit").status_code == 200
    refused = server.predict("a_shop", json=order(houses(1)))
    assert refused.status_code == 200
    assert "Model not found: fit" in refused.json()["left_out"][0]["message"]
    assert not server.session.get(f"{server.inference}/v2/models/a_shop/ready").ok
    assert "Model not found: fit" in server.ping().text
    [gone] = [node for node in server.describe("a_shop")["nodes"] if node["node"] == "each/price"]
    assert (gone["workers"], gone["status"]) == (0, "FAILED")
    assert gone["model"].startswith("Model not found: fit")
    pack_fit(fit_model, Path(server.settings["model_store"]))
    added = server.manage("POST", "/models?url=fit-1.0.pdar&initial_workers=1&synchronous=true")
    assert added.status_code == 200, added.text
    assert server.session.get(f"{server.inference}/v2/models/a_shop/ready").ok


def test_a_request_has_its_time_and_what_it_began_is_given_up(server: RunningServer) -> None:
    late = server.session.post(
        f"{server.inference}/v2/models/a_shop/infer",
        json={
            "parameters": {"timeout": 300_000},
            "inputs": [
                {"name": "order", "datatype": "BYTES", "shape": [1], "data": [json.dumps(order(houses(1), slow=2))]}
            ],
        },
    )
    assert late.status_code in (429, 503, 504), late.text
    assert "it took longer than 0.3 s (the request's own limit)" in late.text


def test_a_client_that_leaves_takes_its_items_along(server: RunningServer) -> None:
    def waiting() -> int:
        return sum(node["pendingRequests"] for node in server.describe("a_shop")["nodes"])

    threads = [threading.Thread(target=_leave, args=(server,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    eventually(lambda: waiting() == 0)
    assert ask(server, houses(1))["prices"]


def _leave(server: RunningServer) -> None:
    with pytest.raises(requests.exceptions.ReadTimeout):
        requests.post(f"{server.inference}/predictions/a_shop", json=order(houses(40), slow=0.3), timeout=0.2)


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        (("model: fit", "model: fitt"), 400, "node each/price: Model not found: fitt"),
        (("model: fit", 'model: fit\n        version: "9"'), 400, "Model version: 9 does not exist for model: fit"),
        (("sum.prices", "sum.price"), 400, "outputs.prices"),
        (
            ("{x: check.house}", "{y: check.house}"),
            400,
            "nodes.each.nodes.price.inputs.y: the model has no input 'y'; it has x",
        ),
        (('"float32[13]"', '"float32[12]"'), 400, "nodes.each.nodes.price.inputs.x"),
        (
            ("steps.py:Sum", "steps.py:Summe"),
            400,
            "nodes.sum.python: steps.py: has no function or class 'Summe' at its top level (did you mean 'Sum'?)",
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_its_place(
    server: RunningServer, change: tuple[str, str], status: int, words: str
) -> None:
    folder = Path(server.settings["model_store"]) / "wrong"
    shutil.copytree(ZOO / "shop", folder)
    try:
        text = (folder / "pipeline.yaml").read_text()
        assert change[0] in text
        (folder / "pipeline.yaml").write_text(text.replace(*change))
        answer = server.manage("POST", "/models?url=wrong&initial_workers=1&synchronous=true")
        assert (answer.status_code, words in answer.text) == (status, True), answer.text
        assert not server.manage("GET", "/models/wrong").ok
    finally:
        shutil.rmtree(folder)


SAMPLED = """
inputs: {x: bytes}
outputs: {x: only.x}
nodes:
  only: {python: "steps.py:same", inputs: {x: x}, outputs: {x: bytes}}
samples: [{x: sample.bin}]
"""


def test_samples_that_can_not_be_had_are_refused_with_their_place(server: RunningServer) -> None:
    folder = Path(server.settings["model_store"]) / "sampled"
    folder.mkdir()
    (folder / "pipeline.yaml").write_text(SAMPLED)
    (folder / "steps.py").write_text("def same(data, context):\n    return data\n")
    sample = folder / "sample.bin"
    url = "/models?url=sampled&initial_workers=1&synchronous=true"
    try:
        sample.symlink_to("/etc/hostname")
        refused = server.manage("POST", url)
        assert refused.status_code == 403
        told = "sampled: pipeline.yaml: samples[0].x: sample.bin: a link that leads out of the pipeline's folder"
        assert told in refused.json()["message"]
        sample.unlink()
        with sample.open("wb") as file:
            file.truncate(65 * 1024 * 1024)
        refused = server.manage("POST", url)
        assert (refused.status_code, "samples[0].x: sample.bin: more than" in refused.text) == (400, True)
        sample.write_bytes(b"small")
        assert server.manage("POST", url).ok
        assert server.manage("DELETE", "/models/sampled").ok
    finally:
        shutil.rmtree(folder)


SLOW = """
import time
from pathlib import Path
from pdserver.handlers.base import BaseHandler

class Slow(BaseHandler):
    def initialize(self, context):
        while not Path({signal!r}).exists():
            time.sleep(0.01)
        super().initialize(context)
"""
ASKS_SLOW = """
inputs: {xs: "list of float32[13]"}
outputs: {prices: each.price}
nodes:
  each:
    each: x
    on_error: skip
    inputs: {x: xs}
    nodes: {ask: {model: slow, inputs: {x: x}}}
    outputs: {price: ask.price}
"""


def test_no_item_is_left_out_while_a_model_still_loads(server: RunningServer, fit_model: Path, tmp_path: Path) -> None:
    store, signal_file = Path(server.settings["model_store"]), tmp_path / "go"
    (tmp_path / "slow.py").write_text(SLOW.format(signal=str(signal_file)))
    config = tmp_path / "slow.yaml"
    config.write_text("outputs: {fetch_name_0: price}\n")
    options = PackOptions(
        model_name="slow", version="1.0", serialized_file=fit_file(fit_model), handler=str(tmp_path / "slow.py"),
        config_file=config, export_path=store,
    )  # fmt: skip
    pack(options)
    (store / "asks_slow").mkdir()
    (store / "asks_slow" / "pipeline.yaml").write_text(ASKS_SLOW)
    for url in ("slow.pdar", "asks_slow"):
        assert server.manage("POST", f"/models?url={url}&initial_workers=1&synchronous=false").ok
    refused = server.predict("asks_slow", json={"xs": houses(3)})
    assert (refused.status_code, "slow/1.0 is not loaded yet" in refused.text) == (503, True)
    signal_file.touch()
    eventually(lambda: server.predict("asks_slow", json={"xs": houses(3)}).ok)
    assert len(server.predict("asks_slow", json={"xs": houses(3)}).json()) == 3


def test_once_unregistered_nothing_of_it_is_left(server: RunningServer) -> None:
    pids = server.pids("a_shop")
    assert pids
    assert server.manage("DELETE", "/models/a_shop").status_code == 200
    assert not server.manage("GET", "/models/a_shop").ok
    eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
    assert "a_shop:" not in server.session.get(f"{server.metrics}/metrics").text
