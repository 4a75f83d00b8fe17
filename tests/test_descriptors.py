"""Out of file descriptors, in a worker, in the server, in the nursery: what can't be done is refused, and heals."""

from __future__ import annotations

import contextlib
import itertools
import resource
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import requests
from tritonclient.grpc import InferenceServerClient, InferInput
from tritonclient.utils import InferenceServerException

from pdserver.system import descriptors
from tests.conftest import pack_handler
from tests.running import RunningServer, eventually
from tests.without_paddle import running_without_paddle
from tests.zoo.leaky import SIZE

LARGE = bytes(SIZE)
NO_ROOM = "is replaced: there is no room for large data now: Too many open files"


@contextlib.contextmanager
def descriptors_left(pid: int, count: int) -> Iterator[None]:
    """That process can have so many more."""
    process = psutil.Process(pid)
    soft, hard = process.rlimit(psutil.RLIMIT_NOFILE)
    taken = {int(path.name) for path in Path(f"/proc/{pid}/fd").iterdir()}
    free = (number for number in itertools.count() if number not in taken)
    process.rlimit(psutil.RLIMIT_NOFILE, (next(itertools.islice(free, count, None)), hard))
    try:
        yield
    finally:
        process.rlimit(psutil.RLIMIT_NOFILE, (soft, hard))


@contextlib.contextmanager
def running(folder: Path, models: list[str], **settings: str) -> Iterator[RunningServer]:
    store = folder / "store"
    store.mkdir()
    for name in models:
        config = "batchSize: 2\nmaxBatchDelay: 600000\n" if name == "pair" else ""
        pack_handler(store, "twin" if name == "twin" else "leaky", name, config=config)
    # the process that runs out of them is the one that clients are connected to, and the one that has the workers
    with running_without_paddle(folder, store, front_ends="1", **settings) as server:
        yield server


def pid_of(server: RunningServer) -> int:
    assert server.process is not None
    return server.process.pid


def only_pid(server: RunningServer) -> int:
    [pid] = server.pids("leaky")
    return pid


# A worker whose handler leaks


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """Its workers may have 100 descriptors. `leaky`, and `pair`, which waits for two requests."""
    with running(tmp_path_factory.mktemp("limited"), ["leaky", "pair"], worker_limits="nofile=100") as server:
        yield server


@pytest.mark.parametrize("then", [LARGE, b"large", b"open"], ids=["large input", "large answer", "handler's own"])
def test_a_worker_without_descriptors_says_so_and_is_replaced(limited: RunningServer, then: bytes) -> None:
    server = limited
    first = only_pid(server)
    assert server.predict("leaky", data=LARGE).text == f"{first} {SIZE}"
    replaced = server.log().count(NO_ROOM)
    assert server.predict("leaky", data=b"leak").text == str(first)
    answer = server.predict("leaky", data=then)
    assert answer.status_code == 503, f"{answer.status_code}, {len(answer.content)} bytes"
    assert answer.headers["retry-after"]
    eventually(lambda: server.pids("leaky") - {first})
    again = server.predict("leaky", data=then)
    assert again.status_code == 200
    assert again.content == (LARGE if then == b"large" else b"%d %d" % (only_pid(server), len(then)))
    server.logged(NO_ROOM, replaced + 1)


def test_small_requests_of_the_same_batch_are_answered(limited: RunningServer) -> None:
    [first] = limited.pids("pair")
    target = f"{limited.inference}/predictions/pair"

    def ask(*bodies: bytes) -> list[requests.Response]:
        with ThreadPoolExecutor(2) as threads:
            return list(threads.map(lambda body: requests.post(target, body, timeout=60), bodies))

    assert [answer.text for answer in ask(b"leak", b"small")] == [str(first), f"{first} 5"]
    large, small = ask(LARGE, b"small")
    assert (large.status_code, small.status_code, small.text) == (503, 200, f"{first} 5")


# The server


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """`leaky` and `twin`, with a worker each."""
    with running(tmp_path_factory.mktemp("whole"), ["leaky", "twin"]) as server:
        yield server


@pytest.fixture
def server(whole: RunningServer) -> RunningServer:
    """It has let go what the test before had it open: or what is left would get more while a test runs."""
    whole.session.close()
    eventually(lambda: not clients(whole))
    return whole


def clients(server: RunningServer) -> list[object]:
    """The connections that the server has not closed yet."""
    connections = psutil.Process(pid_of(server)).net_connections("tcp")
    return [each for each in connections if each.status != psutil.CONN_LISTEN]


def test_a_server_with_few_descriptors_refuses_large_bodies_and_serves_on(server: RunningServer) -> None:
    victim = only_pid(server)
    assert server.predict("leaky", data=b"x").ok  # the connection stays
    with descriptors_left(pid_of(server), 8):
        refused = server.predict("leaky", data=LARGE)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert "Too many open files" in refused.json()["message"]
        assert server.predict("leaky", data=b"large").content == LARGE
        psutil.Process(victim).kill()
        assert server.predict("leaky", data=b"x").ok, "there is enough left for another worker"
        assert only_pid(server) != victim
    assert server.predict("leaky", data=LARGE).ok


def test_clients_that_are_too_many_are_told_and_others_served(server: RunningServer) -> None:
    session = requests.Session()
    assert session.get(f"{server.inference}/ping", timeout=60).ok
    with descriptors_left(pid_of(server), 12), contextlib.ExitStack() as stack:
        statuses = []
        for _ in range(20):
            client = stack.enter_context(requests.Session())
            answer = client.get(f"{server.inference}/ping", timeout=60)
            statuses.append(answer.status_code)
        assert set(statuses) == {200, 503}
        assert session.get(f"{server.inference}/ping", timeout=60).ok, "who is connected is served"
        victim = only_pid_by(session, server)
        psutil.Process(victim).kill()
        target = f"{server.inference}/predictions/leaky"
        assert session.post(target, b"x", timeout=60).ok, "there is enough left for another worker"
    assert requests.get(f"{server.inference}/ping", timeout=60).ok


def test_grpc_calls_with_large_inputs_are_refused_alone(server: RunningServer) -> None:
    with InferenceServerClient(server.grpc_inference) as client:

        def infer(size: int) -> Any:
            given = InferInput("x", [1, 1, size], "FP32")
            given.set_data_from_numpy(np.ones((1, 1, size), np.float32))
            return client.infer("twin", [given]).as_numpy("x")

        assert infer(1).tolist() == [[[1.0]]]
        with descriptors_left(pid_of(server), 4):  # some of the free numbers may be low ones, which data may have
            with pytest.raises(InferenceServerException, match="Too many open files") as caught:
                infer(SIZE)
            assert caught.value.status() == "StatusCode.UNAVAILABLE"
            assert infer(1).tolist() == [[[1.0]]]
        assert infer(SIZE).shape == (1, 1, SIZE)


def only_pid_by(session: requests.Session, server: RunningServer) -> int:
    target = f"{server.inference}/predictions/leaky"
    return int(session.post(target, b"x", timeout=60).text.split()[0])


def test_an_answer_that_there_is_no_descriptor_for_is_refused_and_never_empty(server: RunningServer) -> None:
    before = only_pid(server)
    assert server.predict("leaky", data=b"x").ok
    with descriptors_left(pid_of(server), 0):
        refused = server.predict("leaky", data=b"large")
        assert refused.status_code == 503
        assert "a large answer did not reach the server" in refused.json()["message"]
        assert server.predict("leaky", data=b"x").ok
    assert server.predict("leaky", data=b"large").content == LARGE
    assert only_pid(server) == before, "it was not the worker's fault"


# The nursery


def test_a_nursery_without_descriptors_starts_workers_again_once_it_has_some(server: RunningServer) -> None:
    victim = only_pid(server)
    nursery = psutil.Process(victim).ppid()
    with descriptors_left(nursery, 0):
        psutil.Process(victim).kill()
        server.logged("no worker could be started: the nursery has no file descriptors left")
    assert server.predict("leaky", data=b"x").ok
    assert nursery in {child.pid for child in psutil.Process(pid_of(server)).children()}


def test_the_soft_limit_is_what_is_looked_at() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (1000, hard))
        assert [descriptors.is_left_for_data(fd) for fd in (0, 807, 808, 999)] == [True, True, False, False]
        assert [descriptors.are_plenty(fd) for fd in (0, 499, 500)] == [True, True, False]
        resource.setrlimit(resource.RLIMIT_NOFILE, (400, hard))
        assert [descriptors.is_left_for_data(fd) for fd in (0, 299, 300, 399)] == [True, True, False, False]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
