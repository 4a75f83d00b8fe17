"""Control of a server with several front ends: what was answered holds at all of them, at once."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import tritonclient.http as triton
import tritonclient.utils.shared_memory as shm

from tests.conftest import pack_handler
from tests.front_ends.conftest import Several
from tests.front_ends.several import of_all
from tests.grpc_client import Client
from tests.running import RunningServer, free_ports

ROUNDS = 10


@pytest.fixture(scope="module")
def server(several: Several) -> RunningServer:
    settings = {"model_control_mode": "explicit", "allow_client_shm": "true"}
    running = several({"mirror": "", "counter": "sequenceBatching: true\nminWorkers: 2\n"}, **settings)
    for version, handler in (("1.0", "mirror"), ("2.0", "appraiser")):
        pack_handler(Path(running.settings["model_store"]), handler, f"late-{version}", version)
    return running


@pytest.fixture(scope="module")
def sessions(server: RunningServer) -> Iterator[list[requests.Session]]:
    """Of each front end at least one, with a connection."""

    def connected() -> requests.Session:
        session = requests.Session()
        assert session.get(f"{server.inference}/ping", timeout=60).status_code == 200
        return session

    made = of_all(server, server.inference, connected)
    yield made
    for session in made:
        session.close()


def statuses(server: RunningServer, sessions: list[requests.Session], model: str) -> set[int]:
    url = f"{server.inference}/predictions/{model}"
    return {session.post(url, b"abc", timeout=60).status_code for session in sessions}


def test_what_was_registered_is_served_by_all_and_what_was_removed_by_none(
    server: RunningServer, sessions: list[requests.Session]
) -> None:
    for _ in range(ROUNDS):
        query = "url=late-1.0.pdar&model_name=late&initial_workers=1&synchronous=true"
        assert server.manage("POST", f"/models?{query}").status_code == 200
        assert statuses(server, sessions, "late") == {200}
        assert server.manage("DELETE", "/models/late").status_code == 200
        assert statuses(server, sessions, "late") == {404}


def test_the_same_by_grpc(server: RunningServer, sessions: list[requests.Session]) -> None:
    with Client(server) as client:
        for _ in range(ROUNDS):
            given = {"url": "late-1.0.pdar", "model_name": "late", "initial_workers": 1, "synchronous": True}
            client.manage("RegisterModel", **given)
            assert statuses(server, sessions, "late") == {200}
            client.manage("UnregisterModel", model_name="late")
            assert statuses(server, sessions, "late") == {404}


def test_a_new_default_version_is_that_of_all(server: RunningServer, sessions: list[requests.Session]) -> None:
    for version in ("1.0", "2.0"):
        query = f"url=late-{version}.pdar&model_name=late&initial_workers=1&synchronous=true"
        assert server.manage("POST", f"/models?{query}").status_code == 200
    for version in ("2.0", "1.0") * ROUNDS:
        assert server.manage("PUT", f"/models/late/{version}/set-default").status_code == 200
        url = f"{server.inference}/predictions/late"
        answers = {session.post(url, b"abc", timeout=60).text for session in sessions}
        assert answers == {"cba"} if version == "1.0" else all("price" in answer for answer in answers)
    for version in ("2.0", "1.0"):
        assert server.manage("DELETE", f"/models/late/{version}").status_code == 200


def test_clients_load_and_unload_by_any_front_end(server: RunningServer, sessions: list[requests.Session]) -> None:
    for session in sessions:
        repository = f"{server.inference}/v2/repository/models/late-1.0"
        assert session.post(f"{repository}/load", timeout=60).status_code == 200
        assert statuses(server, sessions, "late-1.0") == {200}
        assert session.post(f"{repository}/unload", timeout=60).status_code == 200
        assert statuses(server, sessions, "late-1.0") == {404}


def test_a_sequence_goes_on_at_another_front_end(server: RunningServer, sessions: list[requests.Session]) -> None:
    url, headers = f"{server.inference}/predictions/counter", {"ts_request_sequence_id": "mine"}
    totals = [
        session.post(url, json={"add": number}, headers=headers, timeout=60).json()["total"]
        for number, session in enumerate(sessions * 3)
    ]
    assert totals == [number * (number + 1) // 2 for number in range(len(totals))]


def test_shared_memory_is_registered_with_all(server: RunningServer, sessions: list[requests.Session]) -> None:
    key = f"/pdserver-test-{os.getpid()}"
    handle = shm.create_shared_memory_region("mine", key, 1 << 16)
    try:
        with triton.InferenceServerClient(server.inference.removeprefix("http://")) as client:
            for round_ in range(ROUNDS):
                client.register_system_shared_memory("mine", key, 1 << 16)
                for number, session in enumerate(sessions):
                    data = b"%d of %d" % (number, round_)
                    element = np.frombuffer(len(data).to_bytes(4, "little") + data, np.uint8)
                    shm.set_shared_memory_region(handle, [element])
                    answer = session.post(
                        f"{server.inference}/v2/models/mirror/infer", json=in_region(len(element)), timeout=60
                    )
                    assert answer.status_code == 200, answer.text
                    written = shm.get_contents_as_numpy(handle, np.uint8, [1 << 16])[1000 : 1000 + len(element)]
                    assert written.tobytes()[4:] == data[::-1]
                client.unregister_system_shared_memory("mine")
                assert client.get_system_shared_memory_status() == []
                refused = [
                    session.post(f"{server.inference}/v2/models/mirror/infer", json=in_region(8), timeout=60)
                    for session in sessions
                ]
                assert {answer.status_code for answer in refused} == {400}
    finally:
        shm.destroy_shared_memory_region(handle)


def in_region(size: int) -> dict[str, Any]:
    """A request whose input and output are in a region."""
    region = {"shared_memory_region": "mine", "shared_memory_byte_size": size}
    given = {"name": "body", "datatype": "BYTES", "shape": [1, 1], "parameters": region}
    wanted = {"name": "answer", "parameters": {**region, "shared_memory_offset": 1000}}
    return {"inputs": [given], "outputs": [wanted]}


def test_management_at_the_address_of_predictions(several: Several, tmp_path: Path) -> None:
    """As KServe has it; with tokens, the needs of each call are those of its route, not of the port."""
    [port] = free_ports(1)
    url, file = f"http://127.0.0.1:{port}", tmp_path / "tokens.json"
    addresses = dict.fromkeys(("inference_address", "management_address", "metrics_address"), url)
    server = several({"mirror": ""}, **addresses, disable_token_authorization="false", token_file=str(file))
    tokens = {scope: entry["key"] for scope, entry in json.loads(file.read_text()).items()}

    def ask(session: requests.Session, method: str, path: str, scope: str) -> requests.Response:
        headers = {"authorization": f"Bearer {tokens[scope]}"}
        while True:
            answer = session.request(method, url + path, headers=headers, data=b"abc", timeout=60)
            if answer.status_code != 429:  # by which many wrong tokens in a second are answered
                return answer
            time.sleep(0.2)

    def connected() -> requests.Session:
        session = requests.Session()
        assert ask(session, "POST", "/predictions/mirror", "inference").content == b"cba"
        return session

    with contextlib.ExitStack() as stack:
        for session in of_all(server, url, connected):
            stack.callback(session.close)
            assert ask(session, "GET", "/models", "inference").status_code == 403
            assert ask(session, "GET", "/models", "management").json()["models"][0]["modelName"] == "mirror"
            assert "pd_requests_total" in ask(session, "GET", "/metrics", "management").text
            assert ask(session, "DELETE", "/models/mirror", "inference").status_code == 403
            assert ask(session, "POST", "/predictions/mirror", "management").status_code == 403
