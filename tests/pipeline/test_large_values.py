"""Large values from worker to worker, by the thousand: each arrives as it was, and nothing of them is left."""

from __future__ import annotations

import gc
import hashlib
import json
import shutil
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http
from numpy.typing import NDArray

from pdarchiver.pipeline.graph import Graph, Node, PythonBody, Ref, Source, Type
from pdserver.errors import Kind
from pdserver.pipeline.run import Plan, Run, Work
from pdserver.pipeline.values import Item
from pdserver.types import Failure, Part
from tests.flow import Flow
from tests.pipeline.zoo.pages.steps import ROW
from tests.running import RunningServer, eventually, open_descriptors

ZOO = Path(__file__).parent / "zoo"
ROWS = 7
BOOK = """
inputs: {page: bytes}
outputs: {files: look.files}
nodes:
  inner: {model: pages, inputs: {page: page}}
  look: {python: steps.py, inputs: {whole: inner.whole}, outputs: {files: json}}
"""
"""A pipeline that asks another one."""
FILES = """
import os

def handle(data, context):
    return data and [{"files": len(mapped())} for _ in data]

def mapped():
    with open("/proc/self/maps") as maps:
        return [line for line in maps if "memfd:" in line]
"""
"""How many files its inputs are in."""


class File:
    """As the owner of an item."""


class Held:
    """An executor that lets the test settle."""

    def __init__(self) -> None:
        self.works: list[Work] = []
        self.callbacks: list[Callable[[], None]] = []

    def start(self, work: Work) -> None:
        work.on_cancel = Call(work).cancel
        self.works.append(work)

    def later(self, seconds: float, callback: Callable[[], None]) -> Callable[[], object]:
        self.callbacks.append(callback)
        return lambda: self.callbacks.remove(callback)


class Call:
    """As the engine's: it has the work, and the work has it."""

    def __init__(self, work: Work) -> None:
        self.work = work

    def cancel(self) -> None:
        pass


@pytest.mark.parametrize("end", ["answer", "fail", "leave", "time"])
def test_what_a_run_has_held_is_free_at_once_however_it_ends(end: str) -> None:
    body = PythonBody("steps.py")
    inner = Graph(
        {"x": Type()},
        {"one": Node("one", body, {"x": Source((Ref("", "x"),))}, timeout_seconds=1, retry=1)},
        {"y": Source((Ref("one", "y"),))},
    )
    outer = Node("each", inner, {"x": Source((Ref("", "x"),))}, each=("x",), timeout_seconds=2)
    plan = Plan(Graph({"x": Type()}, {"each": outer}, {"y": Source((Ref("each", "y"),))}))
    file = File()
    alive = weakref.ref(file)
    items = [Item(Part("x", "", b"", 0, 0, 5), 7, file) for _ in range(3)]
    executor = Held()
    results: list[object] = []
    gc.disable()
    try:
        run = Run(plan, {"x": items}, executor, results.append)
        run.begin()
        del file, items
        assert len(executor.works) == 3
        if end == "leave":
            run.cancel()
        elif end == "time":
            executor.callbacks[0]()
        for work in list(executor.works):
            work.settle(Failure(Kind.INVALID, "no") if end == "fail" else {"y": work.inputs["x"]})
        assert len(results) == (0 if end == "leave" else 1)
        assert not executor.callbacks
        results.clear()
        executor.works.clear()
        del run, work
        assert alive() is None
    finally:
        gc.enable()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("pages")
    shutil.copytree(ZOO / "pages", folder / "store" / "pages")
    (folder / "store" / "book").mkdir()
    (folder / "store" / "book" / "pipeline.yaml").write_text(BOOK)
    (folder / "store" / "book" / "steps.py").write_text(FILES)
    with RunningServer(folder / "server", folder / "store", settings={"job_queue_size": "2000"}) as server:
        yield server


def page(number: int) -> bytes:
    return np.random.default_rng(number).bytes(ROWS * ROW)


def infer(server: RunningServer, number: int, output: str, model: str = "pages") -> NDArray[Any]:
    """An output for page `number`, as Triton's client gives it."""
    given = tritonclient.http.InferInput("page", [1], "BYTES")
    given.set_data_from_numpy(np.array([page(number)], np.object_))
    wanted = tritonclient.http.InferRequestedOutput(output, binary_data=True)
    with tritonclient.http.InferenceServerClient(server.inference.removeprefix("http://")) as client:
        found: NDArray[Any] = client.infer(model, [given], outputs=[wanted]).as_numpy(output)
    return found


def ask(server: RunningServer, number: int) -> None:
    told = json.loads(infer(server, number, "told")[0])
    assert told["copied"]
    assert told["digest"] == hashlib.sha256(page(number)).hexdigest()


def pids(server: RunningServer) -> list[int]:
    assert server.process is not None
    return [server.process.pid, *(each.pid for each in server.front_ends()), *server.pids("pages")]


def memory_files(pid: int) -> int:
    """But for the page that front ends share."""
    return sum("memfd:" in name and "memfd:page-of-pdserver" not in name for name in open_descriptors(pid))


def test_thousands_of_large_values_leave_no_file_open(server: RunningServer) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: ask(server, number), range(200)))  # ten values each
    for pid in pids(server):
        eventually(lambda pid=pid: memory_files(pid) == 0)  # type: ignore[misc]


def test_a_large_output_comes_to_the_client_from_the_file_that_it_is_in(server: RunningServer) -> None:
    assert infer(server, 1, "whole").tobytes() == (~np.frombuffer(page(1), np.uint8)).tobytes()


def test_a_pipeline_passes_on_what_another_one_gave_it(server: RunningServer) -> None:
    assert json.loads(infer(server, 1, "files", "book")[0]) == 1


@pytest.mark.parametrize("size", [3, 400_000])
def test_a_tensor_of_bytes_that_holds_none_is_the_clients_fault(server: RunningServer, size: int) -> None:
    given = {"name": "page", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": size}}
    head = json.dumps({"inputs": [given]}).encode()
    answer = server.session.post(
        f"{server.inference}/v2/models/pages/infer",
        data=head + b"x" * size,
        headers={"Inference-Header-Content-Length": str(len(head))},
    )
    assert answer.status_code == 400, answer.text
    assert "page" in answer.text


def test_a_killed_worker_loses_no_large_value(server: RunningServer) -> None:
    flow = Flow()

    def one(number: int) -> None:
        with flow.request():
            ask(server, number)

    with flow.killing(lambda: server.pids("pages")), ThreadPoolExecutor(4) as pool:
        list(pool.map(one, range(60)))
    eventually(lambda: server.ping().json()["status"] == "Healthy")
    for pid in pids(server):
        eventually(lambda pid=pid: memory_files(pid) == 0)  # type: ignore[misc]
