"""The Open Inference Protocol over REST, as its own clients and plain HTTP see it."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import requests
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio

from tests.oip.conftest import OipServer
from tests.oip.tensors import BF16_BITS, VALUES, all_inputs, raw

ROWS = np.arange(26, dtype=np.float32).reshape(2, 13) / 8


@pytest.fixture(scope="module")
def client(oip_server: OipServer) -> Iterator[Any]:
    with triton.InferenceServerClient(oip_server.oip) as client:
        yield client


def post(server: OipServer, model: str, body: Any, **headers: str) -> requests.Response:
    """An inference in JSON, on the inference port."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    url = f"{server.inference}/v2/models/{model}/infer"
    return server.session.post(url, data=data, headers={k.replace("_", "-"): v for k, v in headers.items()}, timeout=60)


def get(server: OipServer, path: str, host: str | None = None) -> requests.Response:
    return server.session.get(f"{host or server.inference}{path}", timeout=60)


def fit_input(rows: Any = ROWS, binary: bool = True) -> Any:
    given = triton.InferInput("x", list(rows.shape), "FP32")
    given.set_data_from_numpy(rows, binary_data=binary)
    return given


def binary_request(head: dict[str, Any], *tensors: bytes) -> tuple[bytes, dict[str, str]]:
    text = json.dumps(head).encode()
    return b"".join([text, *tensors]), {"inference-header-content-length": str(len(text))}


def output_of(server: OipServer) -> str:
    name: str = get(server, "/v2/models/fit").json()["outputs"][0]["name"]
    return name


@pytest.mark.parametrize("port", ["inference", "oip"])
def test_health_and_metadata_on_both_ports(oip_server: OipServer, port: str) -> None:
    host = oip_server.inference if port == "inference" else f"http://{oip_server.oip}"
    assert get(oip_server, "/v2/health/live", host).json() == {"live": True}
    assert get(oip_server, "/v2/health/ready", host).json() == {"ready": True}
    assert get(oip_server, "/v2/models/fit/ready", host).json() == {"name": "fit", "ready": True}
    assert get(oip_server, "/v2/models/fit/versions/2/ready", host).json() == {"name": "fit", "ready": True}
    server = get(oip_server, "/v2", host).json()
    assert server["name"] == "triton"
    assert {"binary_tensor_data", "statistics", "classification"} <= set(server["extensions"])
    model = get(oip_server, "/v2/models/fit?any=query", host).json()
    assert (model["name"], model["versions"], model["platform"]) == ("fit", ["1", "2"], "paddle")
    assert model["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 13]}]
    assert oip_server.describe("fit")["modelVersion"] == "1"  # the first of the store
    assert get(oip_server, "/v2/models/fit/versions/2", host).json()["versions"] == ["2"]
    assert "echo" in get(oip_server, "/v2/models", host).json()["models"]


def test_configuration(client: Any) -> None:
    config = client.get_model_config("fit")
    assert config["max_batch_size"] == 8
    assert config["backend"] == config["platform"] == "paddle"
    assert config["input"][0]["dims"] == [13]
    assert config["input"][0]["data_type"] == "TYPE_FP32"
    assert "dynamic_batching" in config
    queues = client.get_model_config("echo")["dynamic_batching"]
    assert (queues["preferred_batch_size"], queues["priority_levels"]) == ([4, 8], 3)
    assert queues["default_queue_policy"]["default_timeout_microseconds"] == 20_000_000
    assert "sequence_batching" in client.get_model_config("counter")
    assert client.get_model_config("mirror")["output"][0]["data_type"] == "TYPE_STRING"


def test_unknown_names_are_said_in_triton_s_words(oip_server: OipServer, client: Any) -> None:
    for path, status, words in (
        ("/v2/models/nobody", 404, "Request for unknown model: 'nobody' is not found"),
        ("/v2/models/nobody/ready", 404, "Request for unknown model: 'nobody' is not found"),
        ("/v2/models/fit/versions/9/config", 404, "Request for unknown model: 'fit' version 9 is not found"),
        ("/v2/nothing/here", 404, "Not Found"),
        ("/v2/models/fit/infer", 405, "Method Not Allowed"),
    ):
        answer = get(oip_server, path)
        assert (answer.status_code, answer.json()) == (status, {"error": words}), path
    assert get(oip_server, "/elsewhere", f"http://{oip_server.oip}").json() == {"error": "Not Found"}
    with pytest.raises(triton.InferenceServerException, match="unknown model: 'nobody' is not found") as failed:
        client.infer("nobody", [fit_input()])
    assert failed.value.status() == "404"
    assert not client.is_model_ready("nobody")


def test_answers_are_bit_equal_whatever_way_they_go(oip_server: OipServer, fit_model: Any) -> None:
    """Over REST in JSON and in binary, and over TorchServe's REST."""
    name = output_of(oip_server)
    in_json = post(oip_server, "fit/versions/1", {"inputs": [
        {"name": "x", "shape": [2, 13], "datatype": "FP32", "data": ROWS.tolist()}
    ]}).json()["outputs"][0]  # fmt: skip
    with triton.InferenceServerClient(oip_server.oip) as client:
        binary = client.infer("fit", [fit_input()], "1").as_numpy(name)
    opaque = [oip_server.predict("fit/1", json=row.tolist()).json() for row in ROWS]
    assert (in_json["name"], in_json["shape"]) == (name, [2, 1])
    assert np.array(in_json["data"], np.float32).tobytes() == binary.tobytes()
    from_opaque = [answer[name] if isinstance(answer, dict) else answer for answer in opaque]
    assert np.array(from_opaque, np.float32).tobytes() == binary.tobytes()
    weights = np.load(fit_model / "weights.npz")
    assert np.allclose(binary, ROWS @ weights["w"] + weights["b"])


def test_every_datatype_in_json(oip_server: OipServer) -> None:
    answer = post(oip_server, "echo", {"inputs": all_inputs()})
    assert answer.headers["content-type"] == "application/json"
    outputs = {output["name"]: output for output in answer.json()["outputs"]}
    for datatype, (values, _) in VALUES.items():
        output = outputs[datatype.lower()]
        assert (output["datatype"], output["shape"]) == (datatype, [1, 2])
        assert output["data"] == (values if datatype != "FP16" else [-0.5, 65504.0])
    assert b"0.1,-3.4e38" in answer.content.replace(b"e+38", b"e38")


def test_every_datatype_in_binary_both_ways(oip_server: OipServer) -> None:
    inputs = [
        {"name": d.lower(), "datatype": d, "shape": [1, 2], "parameters": {"binary_data_size": len(raw(d))}}
        for d in VALUES
    ]
    head = {"id": "all", "inputs": inputs, "parameters": {"binary_data_output": True}}
    body, headers = binary_request(head, *map(raw, VALUES))
    answer = post(oip_server, "echo", body, **headers)
    assert answer.headers["content-type"] == "application/octet-stream"
    length = int(answer.headers["inference-header-content-length"])
    described = json.loads(answer.content[:length])
    assert (described["id"], described["model_name"], described["model_version"]) == ("all", "echo", "1")
    sizes = [output["parameters"]["binary_data_size"] for output in described["outputs"]]
    assert sizes == [len(raw(datatype)) for datatype in VALUES]
    assert answer.content[length:] == b"".join(map(raw, VALUES))


def test_json_and_binary_mixed_in_one_request(oip_server: OipServer) -> None:
    inputs = all_inputs()
    for datatype in ("INT64", "BF16", "BYTES"):
        given = next(item for item in inputs if item["datatype"] == datatype)
        del given["data"]
        given["parameters"] = {"binary_data_size": len(raw(datatype))}
    head = {"inputs": inputs, "outputs": [{"name": "bf16", "parameters": {"binary_data": True}}, {"name": "int64"}]}
    body, headers = binary_request(head, raw("INT64"), raw("BF16"), raw("BYTES"))
    answer = post(oip_server, "echo", body, **headers)
    length = int(answer.headers["inference-header-content-length"])
    first, second = json.loads(answer.content[:length])["outputs"]
    assert (first["name"], first["parameters"]) == ("bf16", {"binary_data_size": 4})
    assert (second["name"], second["data"]) == ("int64", VALUES["INT64"][0])
    assert answer.content[length:] == np.array(BF16_BITS, "<u2").tobytes()
    assert "id" not in json.loads(answer.content[:length])


def test_numbers_that_json_does_not_have(oip_server: OipServer) -> None:
    inputs = all_inputs()
    next(item for item in inputs if item["datatype"] == "FP32")["data"] = [float("nan"), float("-inf")]
    answer = post(oip_server, "echo", {"inputs": inputs, "outputs": [{"name": "fp32"}]})
    assert b'"data":[NaN,-Infinity]' in answer.content


def test_a_raw_request(oip_server: OipServer) -> None:
    answer = post(oip_server, "fit", ROWS[0].tobytes(), inference_header_content_length="0")
    length = int(answer.headers["inference-header-content-length"])
    assert json.loads(answer.content[:length])["outputs"][0]["shape"] == [1, 1]
    assert len(answer.content) == length + 4
    text = post(oip_server, "mirror", b"abc", inference_header_content_length="0")
    assert text.content.endswith(b"\x03\x00\x00\x00cba")


def test_large_tensors_in_binary(oip_server: OipServer) -> None:
    """Beyond what is held in memory, compressed and not: the same bytes come back."""
    body = np.random.default_rng(7).bytes(700_001)
    element = len(body).to_bytes(4, "little") + body
    head = {
        "inputs": [
            {"name": "body", "shape": [1, 1], "datatype": "BYTES", "parameters": {"binary_data_size": len(element)}}
        ],
        "parameters": {"binary_data_output": True},
    }
    data, headers = binary_request(head, element)
    plain = post(oip_server, "mirror", data, **headers)
    squeezed = post(oip_server, "mirror", gzip.compress(data, 1), content_encoding="gzip", **headers)
    raw_request = post(oip_server, "mirror", body, inference_header_content_length="0")
    for answer in (plain, squeezed, raw_request):
        assert answer.status_code == 200, answer.text
        assert answer.content[int(answer.headers["inference-header-content-length"]) + 4 :] == body[::-1]


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
@pytest.mark.parametrize("binary", [True, False])
def test_compression_both_ways(client: Any, oip_server: OipServer, encoding: str, binary: bool) -> None:
    outputs = [triton.InferRequestedOutput(output_of(oip_server), binary_data=binary)]
    plain = client.infer("fit", [fit_input(binary=binary)], outputs=outputs)
    squeezed = client.infer(
        "fit",
        [fit_input(binary=binary)],
        outputs=outputs,
        request_compression_algorithm=encoding,
        response_compression_algorithm=encoding,
    )
    name = output_of(oip_server)
    assert squeezed.as_numpy(name).tobytes() == plain.as_numpy(name).tobytes()


def test_an_answer_is_compressed_as_the_client_weighs_it(oip_server: OipServer) -> None:
    for accepted, length, encoding in (
        ("gzip;q=0.2, deflate;q=0.9", 2000, "deflate"),
        ("gzip, deflate, br", 2000, "gzip"),
        ("gzip, deflate, br", 20, None),
        ("gzip, deflate, br", 2_000_000, None),
        ("gzip", 20, "gzip"),
        ("gzip", 2_000_000, "gzip"),
        ("*", 2000, "gzip"),
        ("gzip;q=0", 2000, None),
        ("br", 2000, None),
        ("identity, gzip;q=0.5", 2000, None),
    ):
        body = {"inputs": [{"name": "body", "shape": [1, 1], "datatype": "BYTES", "data": ["a" * length]}]}
        answer = requests.post(
            f"{oip_server.inference}/v2/models/mirror/infer",
            json=body,
            headers={"Accept-Encoding": accepted},
            stream=True,
            timeout=60,
        )
        assert answer.headers.get("content-encoding") == encoding, accepted
        text = answer.raw.read(decode_content=False)
        if encoding:
            text = gzip.decompress(text) if encoding == "gzip" else zlib.decompress(text)
        assert json.loads(text)["outputs"][0]["data"] == ["a" * length]


def test_classification(client: Any) -> None:
    inputs = [triton.InferInput(d.lower(), [1, 2], d) for d in VALUES]
    for given, (datatype, (values, dtype)) in zip(inputs, VALUES.items(), strict=True):
        if datatype == "BF16":
            given._raw_data = raw(datatype)  # the client's own conversion loses nothing here, but needs another library
            given._parameters["binary_data_size"] = len(given._raw_data)
        else:
            given.set_data_from_numpy(np.array([values], dtype if datatype != "BYTES" else np.object_))
    outputs = [triton.InferRequestedOutput("fp32", class_count=2), triton.InferRequestedOutput("int8", class_count=1)]
    answer = client.infer("echo", inputs, outputs=outputs)
    first, second = answer.as_numpy("fp32")[0]
    assert [text.split(b":")[1:] for text in (first, second)] == [[b"0", b"cat"], [b"1", b"dog"]]
    assert float(first.split(b":")[0]) == pytest.approx(0.1)
    assert answer.as_numpy("int8").tolist() == [[b"127:1"]]


@pytest.mark.parametrize("datatype", [d for d in VALUES if d.startswith(("INT", "UINT"))])
def test_classes_of_integers_are_integers_in_their_order(oip_server: OipServer, datatype: str) -> None:
    lowest, highest = VALUES[datatype][0]
    asked = {"name": datatype.lower(), "parameters": {"classification": 3}}
    inputs = [given for given in all_inputs() if given["datatype"] != datatype]
    row = {"name": datatype.lower(), "datatype": datatype, "shape": [1, 3], "data": [lowest, highest - 1, highest]}
    answer = oip_server.session.post(
        f"http://{oip_server.oip}/v2/models/echo/infer", json={"inputs": [*inputs, row], "outputs": [asked]}, timeout=60
    )
    [output] = answer.json()["outputs"]
    assert output["data"] == [f"{highest}:2", f"{highest - 1}:1", f"{lowest}:0"]


def test_text_in_and_out_of_any_handler(client: Any) -> None:
    given = triton.InferInput("body", [2, 1], "BYTES")
    given.set_data_from_numpy(np.array([[b"abc"], ["grüße".encode()]], np.object_))
    answer = client.infer("mirror", [given]).as_numpy("answer")
    assert answer.tolist() == [[b"cba"], ["grüße".encode()[::-1]]]


def test_rows_of_several_requests_share_a_run(oip_server: OipServer) -> None:
    """And each gets its own rows back."""

    async def ask() -> list[Any]:
        async with triton_aio.InferenceServerClient(oip_server.oip) as client:
            return await asyncio.gather(*(client.infer("fit", [fit_input(ROWS * n)], "1") for n in range(10)))

    name = output_of(oip_server)
    answers = asyncio.run(ask())
    for n, answer in enumerate(answers):
        with triton.InferenceServerClient(oip_server.oip) as client:
            alone = client.infer("fit", [fit_input(ROWS * n)], "1").as_numpy(name)
        assert np.allclose(answer.as_numpy(name), alone, rtol=1e-6)


def test_statistics_count_requests_rows_and_runs(oip_server: OipServer, client: Any) -> None:
    def stats() -> Any:
        (found,) = client.get_inference_statistics("fit", "2")["model_stats"]
        return found

    before = stats()
    for _ in range(3):
        client.infer("fit", [fit_input()], "2")
    with pytest.raises(triton.InferenceServerException):
        client.infer("fit", [fit_input(ROWS[:, :12])], "2")
    after = stats()
    assert after["inference_count"] - before["inference_count"] == 6
    assert after["execution_count"] - before["execution_count"] == 3
    phases = after["inference_stats"]
    counts = {name: phases[name]["count"] - before["inference_stats"][name]["count"] for name in phases}
    assert counts == {
        "success": 3, "fail": 0, "queue": 3, "compute_input": 3, "compute_infer": 3, "compute_output": 3,
        "cache_hit": 0, "cache_miss": 0,
    }  # fmt: skip
    assert phases["success"]["ns"] >= phases["compute_infer"]["ns"] > 0
    batches = {batch["batch_size"]: batch["compute_infer"]["count"] for batch in after["batch_stats"]}
    assert batches[2] >= 3
    assert after["last_inference"] > 1.6e12
    names = {(entry["name"], entry["version"]) for entry in client.get_inference_statistics()["model_stats"]}
    assert {("fit", "1"), ("fit", "2"), ("echo", "1")} <= names
    assert oip_server.metric("nv_inference_count_total", model="fit", version="2") == after["inference_count"]
    assert (
        oip_server.metric("nv_inference_request_success_total", model="fit", version="2") == phases["success"]["count"]
    )


def test_the_asynchronous_client(oip_server: OipServer) -> None:
    async def ask() -> Any:
        async with triton_aio.InferenceServerClient(oip_server.oip) as client:
            assert await client.is_server_live()
            assert await client.is_server_ready()
            assert await client.is_model_ready("fit", "1")
            assert (await client.get_server_metadata())["name"] == "triton"
            return await client.infer("fit", [fit_input()], request_id="mine", priority=1, timeout=20_000_000)

    answer = asyncio.run(ask())
    assert answer.get_response()["id"] == "mine"
    assert answer.as_numpy(output_of(oip_server)).shape == (2, 1)


def test_sequences(oip_server: OipServer, client: Any) -> None:
    def add(number: int, **how: Any) -> Any:
        given = triton.InferInput("body", [1, 1], "BYTES")
        given.set_data_from_numpy(np.array([[json.dumps({"add": number}).encode()]], np.object_))
        answer = client.infer("counter", [given], **how).as_numpy("answer")
        return json.loads(answer[0][0])["total"]

    assert add(1, sequence_id=7, sequence_start=True) == 1
    assert add(2, sequence_id="text", sequence_start=True) == 2
    assert add(10, sequence_id=7) == 11
    assert add(100, sequence_id=7, sequence_end=True) == 111
    assert add(5, sequence_id="text", sequence_end=True) == 7
    for how, words in (
        ({"sequence_id": 7}, "must specify the START flag on the first request of the sequence"),
        ({}, "must specify a non-zero or non-empty correlation ID"),
    ):
        with pytest.raises(triton.InferenceServerException, match=words) as failed:
            add(1, **how)
        assert failed.value.status() == "400"
    assert add(1, sequence_id=7, sequence_start=True, sequence_end=True) == 1


def test_parameters_reach_the_handler(oip_server: OipServer) -> None:
    inputs = [{"name": "body", "shape": [2, 1], "datatype": "BYTES", "data": ['{"op": "parameters"}'] * 2}]
    given = {"mine": 1, "share": 0.5, "word": "ü", "flag": True, "priority": 1, "timeout": 10_000_000}
    answer = post(oip_server, "chaos", {"inputs": inputs, "parameters": given})
    kept = {"mine": 1, "share": 0.5, "word": "ü", "flag": True}
    assert [json.loads(text) for text in answer.json()["outputs"][0]["data"]] == [kept, kept]


@pytest.mark.parametrize(
    ("op", "status", "words"),
    [
        ("fail", 500, 'KeyError: "the handler\'s own fault"'),
        ("fail_item", 400, "this one is bad"),
        ("fail_item_torchserve", 507, "no room"),
        ("prediction_exception", 418, "teapots only"),
    ],
)
def test_failures_of_the_handler(oip_server: OipServer, op: str, status: int, words: str) -> None:
    """Raised, returned, or said by the status that it sets."""
    inputs = [{"name": "body", "shape": [1, 1], "datatype": "BYTES", "data": [json.dumps({"op": op})]}]
    answer = post(oip_server, "chaos", {"inputs": inputs})
    assert (answer.status_code, answer.json()) == (status, {"error": words})
