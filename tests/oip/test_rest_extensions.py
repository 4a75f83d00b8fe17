"""Triton's extensions over REST: shared memory, the repository, settings, generate; and what is off by default."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import tritonclient.http as triton
import tritonclient.utils.shared_memory as shm

from tests.conftest import Lent
from tests.oip.conftest import OipServer, pack_fit
from tests.running import eventually

ROWS = np.arange(26, dtype=np.float32).reshape(2, 13) / 8


@pytest.fixture(scope="module")
def client(oip_server: OipServer) -> Iterator[Any]:
    with triton.InferenceServerClient(oip_server.oip) as client:
        yield client


@pytest.fixture
def region(client: Any) -> Iterator[tuple[str, Any]]:
    """The key of a shared memory file of a mebibyte, and the client's handle of it; registered as "mine"."""
    key = f"/pdserver-test-{os.getpid()}"
    handle = shm.create_shared_memory_region("mine", key, 1 << 20)
    client.register_system_shared_memory("mine", key, 1 << 20)
    yield key, handle
    client.unregister_system_shared_memory("mine")
    shm.destroy_shared_memory_region(handle)


def body_in(size: int, offset: int = 0) -> Any:
    given = triton.InferInput("body", [1, 1], "BYTES")
    given.set_shared_memory("mine", size, offset)
    return given


@pytest.mark.parametrize("size", [1000, 400_000])
def test_tensors_in_shared_memory(client: Any, region: tuple[str, Any], size: int) -> None:
    _, handle = region
    data = np.random.default_rng(size).bytes(size)
    element = np.frombuffer(size.to_bytes(4, "little") + data, np.uint8)
    shm.set_shared_memory_region(handle, [element], offset=64)
    wanted = triton.InferRequestedOutput("answer")
    wanted.set_shared_memory("mine", size + 4, 500_000)
    answer = client.infer("mirror", [body_in(size + 4, 64)], outputs=[wanted])
    described = answer.get_output("answer")
    assert described == {"name": "answer", "datatype": "BYTES", "shape": [1, 1]}, "the C++ client ends at parameters"
    written = shm.get_contents_as_numpy(handle, np.uint8, [1 << 20])[500_000 : 500_004 + size].tobytes()
    assert written[4:] == data[::-1]


def test_no_access_leaves_the_region(client: Any, region: tuple[str, Any]) -> None:
    key, handle = region
    assert client.get_system_shared_memory_status() == [{"name": "mine", "key": key, "offset": 0, "byte_size": 1 << 20}]
    with pytest.raises(triton.InferenceServerException, match="already in manager") as failed:
        client.register_system_shared_memory("mine", key, 16)
    assert failed.value.status() == "400"
    for offset, size in ((0, (1 << 20) + 1), (1 << 20, 1)):
        with pytest.raises(triton.InferenceServerException, match="is beyond the"):
            client.register_system_shared_memory("other", key, size, offset)
        with pytest.raises(triton.InferenceServerException, match="is beyond its"):
            client.infer("mirror", [body_in(size, offset)])
    shm.set_shared_memory_region(handle, [np.frombuffer(b"\x03\x00\x00\x00abc", np.uint8)])
    wanted = triton.InferRequestedOutput("answer")
    wanted.set_shared_memory("mine", 6, 100)
    with pytest.raises(triton.InferenceServerException, match=r"\(6 bytes\) should be at least 7 bytes") as failed:
        client.infer("mirror", [body_in(7)], outputs=[wanted])
    assert failed.value.status() == "400"
    os.truncate(f"/dev/shm{key}", 4096)
    with pytest.raises(triton.InferenceServerException, match="is smaller than when it was registered"):
        client.infer("mirror", [body_in(300_000)])
    with pytest.raises(triton.InferenceServerException, match="is smaller than when it was registered"):
        client.infer("mirror", [body_in(1000, 8000)])
    os.truncate(f"/dev/shm{key}", 1 << 20)


def test_only_files_of_the_server_s_user_are_registered(client: Any, tmp_path: Path) -> None:
    link = Path(f"/dev/shm/pdserver-link-{os.getpid()}")
    link.symlink_to(tmp_path)
    try:
        with pytest.raises(triton.InferenceServerException, match="Unable to open shared memory region"):
            client.register_system_shared_memory("link", f"/{link.name}", 1)
    finally:
        link.unlink()
    folder = Path(f"/dev/shm/pdserver-folder-{os.getpid()}")
    folder.mkdir()
    try:
        with pytest.raises(triton.InferenceServerException, match="Unable to open shared memory region"):
            client.register_system_shared_memory("folder", f"/{folder.name}", 1)
    finally:
        folder.rmdir()


def test_cuda_shared_memory_is_asked_for_and_not_there(client: Any) -> None:
    """Clients unregister everything before they begin."""
    client.unregister_system_shared_memory()
    client.unregister_cuda_shared_memory()
    assert client.get_cuda_shared_memory_status() == []


def test_models_are_loaded_and_unloaded(oip_server: OipServer, client: Any) -> None:
    def entries(name: str) -> list[dict[str, str]]:
        return [entry for entry in client.get_model_repository_index() if entry["name"] == name]

    assert entries("spare") == [{"name": "spare", "version": "1", "state": "READY"}]
    client.load_model("spare")
    client.unload_model("spare")
    assert not client.is_model_ready("spare")
    assert entries("spare") == [{"name": "spare"}]
    client.load_model("spare")
    assert client.is_model_ready("spare")
    assert entries("spare") == [{"name": "spare", "version": "1", "state": "READY"}]
    ready = oip_server.session.post(f"{oip_server.inference}/v2/repository/index", json={"ready": True}, timeout=60)
    assert {"fit", "spare"} <= {entry["name"] for entry in ready.json()}
    with pytest.raises(triton.InferenceServerException, match="failed to poll from model repository"):
        client.load_model("nobody")
    client.unload_model("nobody")  # isn't loaded: as it should be


def test_trace_settings(client: Any) -> None:
    settings = client.get_trace_settings()
    assert (settings["trace_level"], settings["trace_rate"]) == (["OFF"], "1000")
    changes = {"trace_level": ["TIMESTAMPS", "TENSORS"], "trace_rate": None}
    assert client.update_trace_settings(settings=changes) == settings
    assert client.update_trace_settings("fit", changes) == settings
    assert client.get_trace_settings("fit") == settings


def test_log_settings(oip_server: OipServer, client: Any) -> None:
    settings = client.get_log_settings()
    assert settings["log_info"] is True
    assert settings["log_verbose_level"] == 0
    assert client.update_log_settings({"log_info": False})["log_info"] is False

    def load(name: str) -> None:
        copied = f"/models?url=spare.pdar&model_name={name}&initial_workers=0"
        assert oip_server.manage("POST", copied).ok
        assert oip_server.manage("DELETE", f"/models/{name}").ok

    load("unsaid")
    client.update_log_settings({"log_info": True, "log_verbose_level": 0})
    load("said")
    oip_server.logged("registered said/1")
    assert "registered unsaid/1" not in oip_server.log()


def test_generate(oip_server: OipServer) -> None:
    def generate(model: str, body: dict[str, Any]) -> Any:
        answer = oip_server.session.post(f"{oip_server.inference}/v2/models/{model}/generate", json=body, timeout=60)
        assert answer.status_code == 200, answer.text
        return answer.json()

    assert generate("mirror", {"body": "abc", "parameters": {"temperature": 0.5}, "other": True}) == {
        "model_name": "mirror", "model_version": "1", "answer": "cba",
    }  # fmt: skip
    assert generate("mirror/versions/1", {"id": "7", "body": [["ab"], ["cd"]]}) == {
        "id": "7", "model_name": "mirror", "model_version": "1", "answer": ["ba", "dc"],
    }  # fmt: skip
    answered = generate("fit", {"x": ROWS[0].tolist()})
    assert len(answered) == 3
    assert generate("mirror", {"body": ["abc"]})["answer"] == "cba", "a list of as many elements as the row has"


def test_generate_stream(oip_server: OipServer) -> None:
    url = f"{oip_server.inference}/v2/models/stream/generate"
    answer = oip_server.session.post(f"{url}_stream", json={"body": json.dumps({"count": 2})}, timeout=60)
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    events = [json.loads(line.removeprefix("data: ")) for line in answer.text.split("\n\n") if line]
    assert [event["answer"] for event in events] == ["0 ", "1 ", "end"]
    failing = json.dumps({"count": 1, "raise": True})
    answer = oip_server.session.post(f"{url}_stream", json={"body": failing}, timeout=60)
    assert answer.text.endswith('data: {"error":"ValueError: after the pieces"}\n\n')
    answer = oip_server.session.post(url, json={"body": json.dumps({"count": 2})}, timeout=60)
    assert (answer.status_code, "exactly 1 response" in answer.json()["error"]) == (400, True)


def ask_narrow(server: OipServer, op: str, parameters: dict[str, Any] | None = None, **fields: str) -> Any:
    """Of the model of one worker, and room for one that waits."""
    data = [json.dumps({"op": op, **fields})]
    given = {"inputs": [{"name": "body", "shape": [1, 1], "datatype": "BYTES", "data": data}]}
    url = f"{server.inference}/v2/models/narrow/infer"
    return requests.post(url, json={**given, "parameters": parameters or {}}, timeout=60)


@pytest.fixture
def busy(oip_server: OipServer, tmp_path: Path) -> Iterator[Callable[[], Any]]:
    """The worker of `narrow` is busy until this is called; it gives that request's answer."""
    begun, go = tmp_path / "begun", tmp_path / "go"
    with ThreadPoolExecutor(1) as thread:
        answer = thread.submit(ask_narrow, oip_server, "wait_for", begun=str(begun), go=str(go))
        eventually(begun.exists)

        def release() -> Any:
            go.touch()
            return answer.result()

        yield release
        go.touch()


def test_a_full_queue(oip_server: OipServer, busy: Callable[[], Any]) -> None:
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(ask_narrow, oip_server, "echo")
        eventually(lambda: oip_server.metric("nv_inference_pending_request_count", model="narrow") == 1)
        full = ask_narrow(oip_server, "echo")
        assert (full.status_code, full.headers["retry-after"]) == (503, "1")
        assert "Exceeds maximum queue size" in full.json()["error"]
        assert (busy().status_code, waiting.result().status_code) == (200, 200)
    assert oip_server.metric("nv_inference_request_failure_total", model="narrow", reason="REJECTED") == 1


def test_a_region_that_is_to_be_written_to_goes_when_it_is(
    oip_server: OipServer, client: Any, region: tuple[str, Any], busy: Callable[[], Any]
) -> None:
    key, handle = region

    def ask() -> Any:
        with triton.InferenceServerClient(oip_server.oip) as own:
            given = triton.InferInput("body", [1, 1], "BYTES")
            given.set_data_from_numpy(np.array([[b"{}"]], object))
            wanted = triton.InferRequestedOutput("answer")
            wanted.set_shared_memory("mine", 1000, 5000)
            return own.infer("narrow", [given], outputs=[wanted])

    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(ask)
        eventually(lambda: oip_server.metric("nv_inference_pending_request_count", model="narrow") == 1)
        client.unregister_system_shared_memory()
        assert [each["name"] for each in client.get_system_shared_memory_status()] == ["mine"], "it is awaited"
        with pytest.raises(triton.InferenceServerException, match="already in manager"):
            client.register_system_shared_memory("mine", key, 1 << 20)
        assert busy().status_code == 200
        assert waiting.result().get_output("answer")["shape"] == [1, 1]
    assert b'"nonce"' in shm.get_contents_as_numpy(handle, np.uint8, [1 << 20])[5000:6000].tobytes()
    assert client.get_system_shared_memory_status() == []
    client.register_system_shared_memory("mine", key, 1 << 20)
    client.unregister_system_shared_memory("mine")
    assert client.get_system_shared_memory_status() == [], "nobody awaits it now"


def test_a_region_is_not_kept_for_who_has_left(
    oip_server: OipServer, client: Any, region: tuple[str, Any], busy: Callable[[], Any]
) -> None:
    output = {"name": "answer", "parameters": {"shared_memory_region": "mine", "shared_memory_byte_size": 1000}}
    given = {"name": "body", "shape": [1, 1], "datatype": "BYTES", "data": ["{}"]}
    body = json.dumps({"inputs": [given], "outputs": [output]})
    with contextlib.closing(http.client.HTTPConnection(oip_server.oip, timeout=60)) as leaving:
        leaving.request("POST", "/v2/models/narrow/infer", body)
        eventually(lambda: oip_server.metric("nv_inference_pending_request_count", model="narrow") == 1)
    client.unregister_system_shared_memory("mine")
    eventually(lambda: client.get_system_shared_memory_status() == [])
    assert busy().status_code == 200


def test_a_request_whose_time_is_over(oip_server: OipServer, busy: Callable[[], Any]) -> None:
    late = ask_narrow(oip_server, "echo", {"timeout": 1000})
    assert (late.status_code, "Request timeout expired" in late.json()["error"]) == (503, True)
    assert busy().status_code == 200


def test_a_model_without_workers_is_not_ready(oip_server: OipServer) -> None:
    url = f"{oip_server.inference}/v2/models/spare"
    assert oip_server.manage("PUT", "/models/spare?min_worker=0&synchronous=true").ok
    try:
        ready = oip_server.session.get(f"{url}/ready", timeout=60)
        assert (ready.status_code, ready.json()) == (400, {"name": "spare", "ready": False})
        asked = {"inputs": [{"name": "body", "shape": [1, 1], "datatype": "BYTES", "data": ["a"]}]}
        answer = oip_server.session.post(f"{url}/infer", json=asked, timeout=60)
        assert (answer.status_code, "not at ready state" in answer.json()["error"]) == (503, True)
        index = oip_server.session.post(f"{oip_server.inference}/v2/repository/index", timeout=60).json()
        assert {"name": "spare", "version": "1", "state": "UNAVAILABLE"} in index
        load = f"{oip_server.inference}/v2/repository/models/spare/load"
        assert oip_server.session.post(load, timeout=60).status_code == 200
        assert oip_server.session.get(f"{url}/ready", timeout=60).json()["ready"] is True
    finally:
        oip_server.manage("PUT", "/models/spare?min_worker=1&synchronous=true")


def test_what_manages_the_server_is_off_by_default(lent: Lent, fit_model: Path) -> None:
    pack_fit(lent.store, fit_model)
    server = lent.server
    assert server.manage("POST", "/models?url=fit-1.pdar").status_code == 200
    url = f"{server.inference}/v2"
    assert server.session.get(url, timeout=60).json()["name"] == "pdserver"
    for path, body, status, words in (
        ("repository/models/fit/unload", {}, 503, "explicit model load / unload is not allowed"),
        ("repository/models/fit/load", {}, 503, "set model_control_mode=explicit"),
        ("logging", {"log_info": False}, 403, "set model_control_mode=explicit"),
        ("systemsharedmemory/region/r/register", {"key": "/x", "byte_size": 1}, 501, "allow_client_shm=true"),
        ("systemsharedmemory/unregister", None, 501, "allow_client_shm=true"),
        ("cudasharedmemory/unregister", None, 501, "allow_client_shm=true"),
    ):
        answer = server.session.post(f"{url}/{path}", json=body, timeout=60)
        assert answer.status_code == status, path
        assert words in answer.json()["error"]
    assert server.session.get(f"{url}/systemsharedmemory/status", timeout=60).json() == []
    assert server.session.get(f"{url}/logging", timeout=60).json()["log_info"] is True
    assert server.session.post(f"{url}/repository/index", timeout=60).json() == [
        {"name": "fit", "version": "1", "state": "READY"}
    ]
    given = {"name": "x", "shape": [1, 13], "datatype": "FP32", "parameters": {
        "shared_memory_region": "r", "shared_memory_byte_size": 52}}  # fmt: skip
    answer = server.session.post(f"{url}/models/fit/infer", json={"inputs": [given]}, timeout=60)
    assert (answer.status_code, "allow_client_shm=true" in answer.json()["error"]) == (400, True)
    many = triton.InferInput("x", [9, 13], "FP32")
    many.set_data_from_numpy(np.zeros((9, 13), np.float32))
    with (
        triton.InferenceServerClient(server.inference.removeprefix("http://")) as client,
        pytest.raises(triton.InferenceServerException, match="batch-size must be <= 8 for 'fit'"),
    ):
        client.infer("fit", [many])
