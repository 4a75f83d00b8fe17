"""Predictions that several front ends take: each client gets its own answer, whichever front end it has come to."""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from pdserver.memory_file import THRESHOLD_BYTES
from tests.conftest import pack_handler
from tests.front_ends.several import of_all
from tests.grpc_client import Client, prediction
from tests.running import RunningServer
from tests.without_paddle import running_without_paddle

ROUNDS = 50


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("several")
    store = folder / "store"
    store.mkdir()
    pack_handler(store, "mirror")
    with running_without_paddle(folder, store, front_ends="2", default_workers_per_model="2") as running:
        yield running


class Rest:
    def __init__(self, server: RunningServer) -> None:
        self._session, self._url = requests.Session(), f"{server.inference}/predictions/mirror"
        assert self.ask(b"abc") == b"cba"

    def ask(self, data: bytes) -> bytes:
        answer = self._session.post(self._url, data, timeout=60)
        assert answer.status_code == 200, answer.text
        return answer.content


class Grpc:
    def __init__(self, server: RunningServer) -> None:
        self._client = Client(server)
        assert self.ask(b"abc") == b"cba"

    def ask(self, data: bytes) -> bytes:
        return self._client.predict(prediction("mirror", body=data))


@pytest.fixture(scope="module", params=[Rest, Grpc])
def clients(request: pytest.FixtureRequest, server: RunningServer) -> list[Rest | Grpc]:
    """Of each front end at least one."""
    address = server.inference if request.param is Rest else server.grpc_inference
    return of_all(server, address, lambda: request.param(server))


def test_there_are_as_many_as_were_asked_for(server: RunningServer) -> None:
    assert len(server.front_ends()) == 2


def test_each_client_gets_its_own_answers(clients: list[Rest | Grpc]) -> None:
    def ask(number: int) -> list[bytes]:
        return [clients[number].ask(b"%d %d" % (number, n)) for n in range(ROUNDS)]

    with ThreadPoolExecutor(len(clients)) as threads:
        answers = list(threads.map(ask, range(len(clients))))
    assert answers == [[(b"%d %d" % (number, n))[::-1] for n in range(ROUNDS)] for number in range(len(clients))]


@pytest.mark.parametrize("size", [1 << 16, THRESHOLD_BYTES, 20_000_001])
def test_data_of_any_size_pass(clients: list[Rest | Grpc], size: int) -> None:
    data = random.Random(size).randbytes(size)
    for client in clients:
        assert client.ask(data) == data[::-1]


def test_what_is_refused_in_the_engine_is_said_in_the_dialects_words(server: RunningServer) -> None:
    answer = requests.post(f"{server.inference}/predictions/nothing", b"", timeout=60)
    assert (answer.status_code, answer.json()["message"]) == (404, "Model not found: nothing (is it mirror?)")
