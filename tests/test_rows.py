"""Each client has its own rows, whatever a model makes of a batch: real models behind every protocol."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tritonclient import grpc as triton_grpc
from tritonclient import http as triton_http

from pdarchiver.pack import PackOptions, pack
from tests.conftest import Lent
from tests.grpc_client import Client, prediction
from tests.running import RunningServer

TWO = "batchSize: 2\nmaxBatchDelay: 600000\nminWorkers: 1\n"
"""So that two requests are always one batch."""
FOUR = TWO.replace("2", "4", 1)
A, B, C = [1, 0, 0, 1, 0, 0], [0, 0, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0]
FOUND = {tuple(A): [[0, 0], [0, 3]], tuple(B): [], tuple(C): [[0, 2]]}
OUTPUT = "fetch_name_0"


def pack_model(store: Path, model: Path, config: str = "", name: str | None = None, **options: Any) -> Path:
    name = name or model.name
    config_file = store.parent / f"{name}.yaml"
    config_file.write_text(config)
    packing = PackOptions(
        model_name=name, version="1.0", serialized_file=model.with_suffix(".json"), config_file=config_file,
        export_path=store, **options,
    )  # fmt: skip
    return pack(packing)


@pytest.fixture(scope="module")
def server(servant: Lent, odd_models: Path, fit_model: Path) -> Iterator[RunningServer]:
    store = servant.store
    pack_model(store, odd_models / "constant")
    for name in ("nonzero", "selected", "neighbours", "words"):
        pack_model(store, odd_models / name, FOUR if name == "words" else TWO)
    pack_model(store, odd_models / "nonzero", f"interface: {{batched: false}}\n{TWO}", "said")
    pack_model(store, odd_models / "scaled")
    pack_model(store, fit_model / "fit", f"interface: {{batched: false}}\n{TWO}", "unbatched")
    pack_model(store, fit_model / "fit", TWO, "plain")
    for archive in store.iterdir():
        assert servant.server.manage("POST", f"/models?url={archive.name}").ok
    yield servant.server
    servant.clear()


def together(*calls: Callable[[], Any]) -> list[Any]:
    """What comes of calls that are made at the same time."""
    with ThreadPoolExecutor(len(calls)) as threads:
        return [future.result() for future in [threads.submit(call) for call in calls]]


def rest(server: RunningServer, model: str, row: Any) -> Any:
    answer = server.predict(model, json=row, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()[OUTPUT]


def kserve(server: RunningServer, model: str, row: Any) -> Any:
    url = f"{server.inference}/v1/models/{model}:predict"
    [found] = server.session.post(url, json={"instances": [row]}, timeout=60).json()["predictions"]
    return found


def torchserve_grpc(server: RunningServer, model: str, row: Any) -> Any:
    with Client(server) as client:
        return json.loads(client.predict(prediction(model, body=json.dumps(row).encode())))[OUTPUT]


def oip(module: Any, address: str) -> Callable[[str, Any], Any]:
    def ask(model: str, row: Any) -> Any:
        tensor = module.InferInput("x", [1, len(row)], "FP32")
        tensor.set_data_from_numpy(np.array([row], np.float32))
        with module.InferenceServerClient(address) as client:
            return client.infer(model, [tensor]).as_numpy(OUTPUT).tolist()

    return ask


def ways(server: RunningServer) -> list[Callable[[str, Any], Any]]:
    return [
        lambda model, row: rest(server, model, row),
        lambda model, row: kserve(server, model, row),
        lambda model, row: torchserve_grpc(server, model, row),
        oip(triton_http, server.inference.removeprefix("http://")),
        oip(triton_grpc, server.grpc_inference),
    ]


@pytest.mark.parametrize("model", ["nonzero", "said"])
@pytest.mark.parametrize("way", range(5), ids=["rest", "kserve", "grpc", "oip-rest", "oip-grpc"])
def test_nobody_is_given_the_rows_of_another(server: RunningServer, model: str, way: int) -> None:
    ask = ways(server)[way]
    for rows in ((A, B), (B, A), (C, C), (A, C)):  # as many rows in all as there are requests, but for the last
        found = together(*(lambda row=row: ask(model, row) for row in rows))
        assert found == [FOUND[tuple(row)] for row in rows]


def test_two_protocols_in_one_batch(server: RunningServer) -> None:
    for first in ways(server)[:3]:
        for second in ways(server)[:3]:
            assert together(lambda: first("nonzero", A), lambda: second("nonzero", B)) == [[[0, 0], [0, 3]], []]  # noqa: B023


def test_lengths_that_add_up_by_accident_and_neighbours(server: RunningServer) -> None:
    assert together(lambda: rest(server, "selected", A), lambda: rest(server, "selected", B)) == [[1, 1], []]
    assert together(lambda: rest(server, "selected", [5, 0, 0, 0, 0, 0]), lambda: rest(server, "selected", C)) == [
        [5], [1],
    ]  # fmt: skip
    for row in together(lambda: rest(server, "neighbours", A), lambda: rest(server, "neighbours", C)):
        assert row == [0] * 6  # less its own mean, and nobody else's


def test_instances_of_a_model_without_batches_are_run_one_by_one_and_inputs_as_a_whole(server: RunningServer) -> None:
    url = f"{server.inference}/v1/models/nonzero:predict"

    def asked(body: bytes, **headers: str) -> tuple[int, object]:
        answer = server.session.post(url, body, headers=headers, timeout=60)
        return answer.status_code, next(iter(answer.json().values()))

    rows = json.dumps([A, B, C]).encode()
    one_by_one = (200, [FOUND[tuple(row)] for row in (A, B, C)])
    assert together(*[lambda: asked(b'{"instances": %b}' % rows)] * 2) == [one_by_one] * 2
    assert asked(b'{"inputs": {"x": %b}}' % rows) == (200, [[0, 0], [0, 3], [2, 2]])
    compressed = {"Content-Encoding": "gzip"}
    assert asked(gzip.compress(b'{"inputs": %b}' % rows), **compressed) == (200, [[0, 0], [0, 3], [2, 2]])
    status, said = asked(gzip.compress(b'{"instances": %b}' % rows), **compressed)
    assert (status, "send it as it is" in str(said)) == (400, True)


def test_a_batch_that_one_client_gives_stays_one(server: RunningServer) -> None:
    found, other = together(lambda: rest(server, "nonzero", [A, C]), lambda: rest(server, "nonzero", B))
    assert (found, other) == ([[0, 0], [0, 3], [1, 2]], [])


def test_what_the_model_is_said_to_be_counts_for_predictions_too(server: RunningServer) -> None:
    ones, twos = [1.0] * 13, [2.0] * 13
    [alone], [other] = together(lambda: rest(server, "unbatched", ones), lambda: rest(server, "unbatched", twos))
    plain = together(lambda: rest(server, "plain", ones), lambda: rest(server, "plain", twos))
    np.testing.assert_allclose([alone, other], plain, rtol=1e-5)


def test_a_model_that_works_row_by_row_is_run_once_for_a_batch(server: RunningServer) -> None:
    before = server.session.get(f"{server.inference}/v2/models/plain/stats", timeout=60).json()["model_stats"][0]
    together(*(lambda: rest(server, "plain", [1.0] * 13) for _ in range(2)))
    after = server.session.get(f"{server.inference}/v2/models/plain/stats", timeout=60).json()["model_stats"][0]
    assert after["inference_count"] - before["inference_count"] == 2
    assert after["execution_count"] - before["execution_count"] == 1


def test_a_model_without_inputs_gives_what_it_gives(server: RunningServer) -> None:
    expected = [[0, 1, 2], [3, 4, 5]]
    answer = server.session.post(f"{server.inference}/v2/models/constant/infer", json={"inputs": []}, timeout=60).json()
    assert np.array(answer["outputs"][0]["data"]).reshape(answer["outputs"][0]["shape"]).tolist() == expected
    for client in (
        triton_http.InferenceServerClient(server.inference.removeprefix("http://")),
        triton_grpc.InferenceServerClient(server.grpc_inference),
    ):
        with client:
            assert client.infer("constant", []).as_numpy(OUTPUT).tolist() == expected
    assert rest(server, "constant", {}) == expected
    assert server.predict("constant").json()[OUTPUT] == expected
    assert server.session.get(f"{server.inference}/predictions/constant", timeout=60).json()[OUTPUT] == expected
    refused = server.predict("constant", json=[1])
    assert (refused.status_code, "takes no inputs" in refused.json()["message"]) == (400, True)


def test_inputs_without_a_batch(server: RunningServer) -> None:
    asked = {"x": [[1] * 6, [2] * 6], "factor": 3, "shift": [0, 1, 2, 3, 4, 5]}
    assert rest(server, "scaled", asked) == [[3, 4, 5, 6, 7, 8], [6, 7, 8, 9, 10, 11]]
    assert rest(server, "scaled", asked | {"x": [1] * 6}) == [[3, 4, 5, 6, 7, 8]]
    for wrong, words in (({"factor": [3]}, "expected one float32"), ({"shift": [1, 2]}, "a first axis of length 6")):
        refused = server.predict("scaled", json=asked | wrong)
        assert (refused.status_code, words in refused.json()["message"]) == (400, True), refused.text


def test_one_number_that_is_no_word_fails_its_request_alone(server: RunningServer) -> None:
    def ask(*ids: int) -> Any:
        answer = server.predict("words", json={"ids": ids, "types": [0] * len(ids)}, timeout=60)
        return answer.status_code, answer.json()

    good, bad, *others = together(
        *(lambda ids=ids: ask(*ids) for ids in ((1, 2, 3), (1, 1000, 3), (4, 5, 6), (7, 8, 9)))
    )
    assert bad[0] == 400
    expected = (
        'input "ids": expected whole numbers from 0 to 99, since the model\'s embedding has 100 rows, got 1000 at [1]'
    )
    assert bad[1]["message"] == expected
    assert [status for status, _ in (good, *others)] == [200] * 3
    assert len({tuple(body[OUTPUT]) for _, body in (good, *others)}) == 3

    def typed(*ids: int) -> Any:
        inputs = [triton_http.InferInput(name, [1, len(ids)], "INT64") for name in ("ids", "types")]
        inputs[0].set_data_from_numpy(np.array([ids]))
        inputs[1].set_data_from_numpy(np.zeros((1, len(ids)), np.int64))
        with triton_http.InferenceServerClient(server.inference.removeprefix("http://")) as client:
            try:
                return client.infer("words", inputs).as_numpy(OUTPUT)[0].tolist()
            except triton_http.InferenceServerException as error:
                return str(error)

    first, refused, *rest_of_them = together(
        *(lambda ids=ids: typed(*ids) for ids in ((1, 2, 3), (-1, 2, 3), (4, 5, 6), (7, 8, 9)))
    )
    assert "got -1 at [0][0]" in refused
    np.testing.assert_allclose([first, *rest_of_them], [body[OUTPUT] for _, body in (good, *others)], rtol=1e-4)


def test_what_can_not_be_true_is_refused(server: RunningServer, tmp_path: Path, odd_models: Path) -> None:
    store = Path(server.settings["model_store"])
    packed = pack_model(store, odd_models / "nonzero", "interface: {batched: true}\n", "wrong")
    answer = server.manage("POST", f"/models?url={packed.name}")
    assert answer.status_code >= 400
    assert "interface.batched: true" in answer.text
    assert "nonzero" in answer.text
    packed.unlink()
