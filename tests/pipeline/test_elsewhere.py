"""What another process does for pipelines: the same as is done here, and each request still has one answer."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import psutil
import pytest

from pdarchiver.pipeline.graph import Graph, Node, Pipeline, PythonBody, Ref, Source, Type
from pdserver.configuration.model import ModelSpec
from pdserver.engine.pipeline.answers import reply_of
from pdserver.engine.pipeline.elsewhere import Reading, Writing, read, write
from pdserver.engine.pipeline.nodes import Asker, NodeCall
from pdserver.engine.pipeline.requests import is_taken_apart, values_of
from pdserver.engine.pipeline.running import Running
from pdserver.engine.pipeline.trace import Trace
from pdserver.errors import DeadlineExceeded, InvalidRequest, Kind, Overloaded, PdError
from pdserver.formats import strict_json
from pdserver.memory_file import THRESHOLD_BYTES, MemoryFile, view
from pdserver.metrics.counters import ModelMetrics
from pdserver.pipeline.asking import to_code
from pdserver.pipeline.moved import Moved, moved, received
from pdserver.pipeline.run import Plan, Work
from pdserver.pipeline.values import JSON, Item, Value, json_item
from pdserver.tensors import array, tensor
from pdserver.types import Failure, Part, Reply, Request, Tensor
from tests.engine.virtual import SeenCall, VirtualLoop
from tests.running import RunningServer

MANY = 60_000
"""JSON of so many numbers is large, and as a tensor it goes by file."""


def plain(value: Value) -> Any:
    if isinstance(value, list):
        return [plain(item) for item in value]
    given = value.given
    form = (given.content_type,) if isinstance(given, Part) else (given.dtype, given.shape)
    return (given.name, *form, bytes(value.data))


def crossed(given: Any, kind: type[Any]) -> Any:
    return msgspec.msgpack.decode(msgspec.msgpack.encode(given), type=kind)


@pytest.mark.parametrize("in_file", [False, True])
@pytest.mark.parametrize(
    ("body", "inputs"),
    [
        ([[1.5, 2.0]] * (MANY // 2), {"x": Type("tensor", "float32", (-1, 2))}),
        ({"x": [1] * MANY, "note": "ä" * 10}, {"x": Type("tensor", "int64", (-1,)), "note": Type("text")}),
        ({"items": [{"a": 1}] * 10, "go": True}, {"items": Type("json"), "go": Type("json")}),
        ({"picture": "aGFsbG8h" * 60_000, "x": [1.0]}, {"picture": Type("bytes"), "x": Type("tensor", "float32")}),
    ],
)
def test_values_that_are_read_elsewhere_are_those_that_are_read_here(
    body: Any, inputs: dict[str, Type], in_file: bool
) -> None:
    data = json.dumps(body).encode()
    here = values_of(Request("", None, "", []), [Item(Part("body", JSON, data))], inputs, frozenset())
    file = MemoryFile([b"before", data])
    file.seal()
    part = Part("body", JSON, b"", 0, 6, len(data)) if in_file else Part("body", JSON, data)
    what, files = read(crossed(Reading([part], inputs, frozenset()), Reading), [file] if in_file else [])
    there = received(crossed(what, Moved), files)
    assert {name: plain(value) for name, value in there.items()} == {n: plain(value) for n, value in here.items()}
    large = [each for each in what.given if each.file >= 0]
    assert all(each.size >= THRESHOLD_BYTES for each in large)
    assert all(each.file >= 0 or len(each.data) < THRESHOLD_BYTES for each in what.given)


def test_a_body_may_have_more_values_than_json_between_nodes() -> None:
    data = b"[0" + b",0" * 2_000_000 + b"]"
    what, _ = read(Reading([Part("body", JSON, data)], {"x": Type("tensor", "int8")}, frozenset()), [])
    [given] = what.given
    assert isinstance(given, Tensor)
    assert given.shape == (2_000_001,)


KINDS: list[Type] = [Type(kind) for kind in ("any", "tensor", "bytes", "text", "json", "list", "parts")]


@pytest.mark.parametrize("kind", KINDS, ids=[kind.kind for kind in KINDS])
@pytest.mark.parametrize("others", [{}, {"y": Type("json")}], ids=["alone", "beside another"])
def test_no_large_json_is_taken_apart_here(
    kind: Type, others: dict[str, Type], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a client sends: what may be taken apart is known before."""
    taken: list[bytes] = []

    def loads(data: bytes) -> Any:
        taken.append(data)
        return json.loads(data)

    monkeypatch.setattr(strict_json, "loads", loads)
    inputs = {"x": kind, **others}
    for name in ("body", "data", "x", "y"):
        for content_type in (JSON, "application/json; charset=utf-8", "text/plain", "image/png", ""):
            part = Part(name, content_type, b'{"x": "aGFsbG8h"}')
            taken.clear()
            with contextlib.suppress(InvalidRequest):
                values_of(Request("", None, "", [part]), [Item(part)], inputs, frozenset())
            assert not taken or is_taken_apart(part, inputs), (name, content_type)


def test_bad_json_is_told_as_it_is_here() -> None:
    with pytest.raises(InvalidRequest, match="expected nested lists of float32"):
        read(Reading([Part("body", JSON, b'[1, "x"]')], {"x": Type("tensor", "float32")}, frozenset()), [])


def test_an_answer_that_is_written_elsewhere_is_the_one_that_is_written_here() -> None:
    kept = MemoryFile([b"the picture"])
    outputs: dict[str, Value] = {
        "z": Item(tensor("y", np.arange(MANY * 2, dtype=np.float32))),
        "list": [json_item({"a": 1}), Item(Part("a", "text/plain", b"one"))],
        "none": [],
        "a": Item(Part("p", "image/png", b"", 0, 4, 7), kept.seal(), [kept]),  # of a request, which keeps its files
    }
    here = reply_of(Request("", None, "", []), outputs, None, 4)
    what, files = moved(outputs)
    file = write(crossed(Writing(what, 4), Writing), files)
    assert bytes(view(file.fd)) == here.body
    assert [*json.loads(here.body)] == ["z", "list", "none", "a"]


# In the engine

SPEC = ModelSpec(
    name="p", version="1", url="", directory="", handler="", manifest={}, model_config={}, min_workers=1,
    max_workers=1, response_timeout_seconds=5.0, queue_size=2,
)  # fmt: skip
GRAPH = Graph(
    {"x": Type("tensor", "float32")},
    {"a": Node("a", PythonBody("s.py:S"), {"x": Source((Ref("", "x"),))}, {"y": Type("tensor")})},
    {"y": Source((Ref("a", "y"),))},
)
SMALL = Part("body", JSON, b"[1.0]")
LARGE = Part("body", JSON, json.dumps([0.5] * MANY).encode())


class Same:
    """Gives what it is given."""

    def ask(self, work: Work, asker: Asker) -> None:
        work.settle({"y": work.inputs["x"]})


class Slow:
    """As the other process, which takes a second for each; it does not end earlier when nobody waits."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.begun = 0

    async def read(self, given: Reading, files: Sequence[MemoryFile]) -> tuple[Moved, list[MemoryFile]]:
        await self._work()
        return read(given, files)

    async def write(self, given: Writing, files: Sequence[MemoryFile]) -> MemoryFile:
        await self._work()
        return write(given, files)

    async def _work(self) -> None:
        self.begun += 1
        await asyncio.sleep(1)
        if self.error is not None:
            raise self.error


class World:
    def __init__(self) -> None:
        self.loop = VirtualLoop()
        self.elsewhere = Slow()
        self.metrics = ModelMetrics()
        self.plan = Plan(GRAPH)
        self.running = self._do(self._made)

    def _made(self) -> Running:
        return Running(SPEC, Pipeline(GRAPH), self.metrics, {"a": Same()}, self.elsewhere, self.loop.time)

    def _do(self, what: Callable[[], Any]) -> Any:
        async def done() -> Any:
            return what()

        return self.loop.run_until_complete(done())

    def ask(self, part: Part, timeout_seconds: float = 0.0) -> SeenCall:
        call = SeenCall(Request("p", None, "", [part], timeout_seconds=timeout_seconds), self.loop.time)
        self._do(lambda: self.running.take(call, self.plan))
        return call

    def advance(self, seconds: float) -> None:
        self.loop.run_until_complete(asyncio.sleep(seconds))

    def end(self) -> None:
        self.advance(10)
        assert not len(self.running)
        assert not asyncio.all_tasks(self.loop)
        self.loop.close()


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.end()


def failure(call: SeenCall) -> Failure:
    [outcome] = call.settled
    assert isinstance(outcome, Failure)
    return outcome


def test_small_requests_overtake_large_ones(world: World) -> None:
    large, small = world.ask(LARGE), world.ask(SMALL)
    assert isinstance(small.settled[0], Reply)
    assert not large.settled
    world.advance(3)
    [outcome] = large.settled
    assert isinstance(outcome, Reply)
    assert json.loads(bytes(outcome.body)) == [0.5] * MANY
    assert world.elsewhere.begun == 1  # 240 kB of numbers are written here
    assert world.metrics.succeeded == 2


def test_a_large_answer_is_written_elsewhere(world: World) -> None:
    call = world.ask(Part("body", JSON, json.dumps([0.5] * (2 * MANY)).encode()))
    world.advance(1.5)
    assert world.elsewhere.begun == 2
    assert not call.settled
    world.advance(1)
    assert isinstance(call.settled[0], Reply)


@pytest.mark.parametrize("at", [0.5, 1.5])
def test_a_client_that_leaves_has_no_answer(world: World, at: float) -> None:
    call = world.ask(Part("body", JSON, json.dumps([0.5] * (2 * MANY)).encode()))
    world.advance(at)
    call.cancel()
    world.advance(2)
    assert not call.settled
    assert (world.metrics.succeeded, sum(world.metrics.failed.values())) == (0, 0)


def test_its_time_may_be_over_while_it_is_read(world: World) -> None:
    call = world.ask(LARGE, timeout_seconds=0.5)
    world.advance(3)
    assert failure(call).kind is Kind.DEADLINE
    assert call.settled_at == pytest.approx(0.5)


@pytest.mark.parametrize("at", [0.5, 1.5])
def test_it_ends_with_the_pipeline(world: World, at: float) -> None:
    call = world.ask(Part("body", JSON, json.dumps([0.5] * (2 * MANY)).encode()))
    world.advance(at)
    world.running.fail(DeadlineExceeded("it was unloaded"))
    world.advance(2)
    if at < 1:
        assert failure(call).message == "it was unloaded"
    else:
        assert isinstance(call.settled[0], Reply)  # nothing was missing but its writing


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (Overloaded("too many wait"), "too many wait"),
        (OSError(5, "broken"), "internal error (OSError); the server's log has more"),
    ],
)
@pytest.mark.parametrize("numbers", [MANY, 2 * MANY])
def test_what_fails_elsewhere_fails_the_request(world: World, error: Exception, message: str, numbers: int) -> None:
    call = world.ask(Part("body", JSON, json.dumps([0.5] * numbers).encode()))
    if numbers > MANY:
        world.advance(1.5)
    world.elsewhere.error = error
    world.advance(3)
    assert failure(call).message == message
    world.elsewhere.error = None
    assert isinstance(world.ask(SMALL).settled[0], Reply)


def test_those_that_are_read_count_as_being_in_the_pipeline(world: World) -> None:
    world.ask(LARGE)
    world.ask(LARGE)
    with pytest.raises(PdError, match="2 requests are in this pipeline already"):
        world.ask(SMALL)


def test_large_values_that_are_made_here_go_by_file() -> None:
    """Such as rows that are put together for a model."""

    class Caller:
        def __init__(self) -> None:
            self.request = Request("p", None, "id", [])
            self.depth = 0
            self.clock: Callable[[], float] = lambda: 0.0
            self.trace: Trace | None = None

        def fail(self, error: PdError) -> None:
            raise error

        def broken(self, error: Exception) -> None:
            raise error

    large, small = np.zeros(THRESHOLD_BYTES, np.uint8), np.ones(3, np.uint8)
    inputs = {"large": Item(tensor("large", large)), "small": Item(tensor("small", small))}
    work = Work("a", GRAPH.nodes["a"], inputs, executor=None, settled=lambda _: None)  # type: ignore[arg-type]
    call = NodeCall(work, to_code(inputs, SPEC, Request("p", None, "id", []), {}), Caller())
    beside, within = call.request.inputs
    assert (beside.file, within.file, len(call.request.files)) == (0, -1, 1)
    assert bytes(view(call.request.files[0])[beside.start :][: beside.size]) == large.tobytes()
    assert array(within).tolist() == [1, 1, 1]  # type: ignore[arg-type]


# In a server

STEPS = """
import numpy as np

def total(data, context):
    return [{"total": float(row["x"].sum()), "twice": row["x"] * 2} for row in data]
"""
YAML = """
inputs: {x: "float32[-1]", note: text}
outputs: {total: sum.total, twice: sum.twice, note: note}
nodes: {sum: {python: "steps.py:total", inputs: {x: x}, outputs: {total: json, twice: "float32[-1]"}}}
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("elsewhere")
    own: Path = folder / "store" / "numbers"
    own.mkdir(parents=True)
    (own / "steps.py").write_text(STEPS)
    (own / "pipeline.yaml").write_text(YAML)
    (folder / "store" / "outer").mkdir()
    (folder / "store" / "outer" / "pipeline.yaml").write_text(OUTER)
    with RunningServer(folder / "server", folder / "store") as server:
        yield server


OUTER = """
inputs: {x: json, note: text}
outputs: {answer: inner.body}
nodes: {inner: {model: numbers, opaque: true, inputs: {x: x, note: note}}}
"""


def codecs(server: RunningServer) -> int:
    assert server.process is not None
    processes = psutil.Process(server.process.pid).children(recursive=True)
    return sum("pdserver.codec" in " ".join(process.cmdline()) for process in processes)


@pytest.mark.parametrize("count", [100, MANY, 700_000])
def test_bodies_of_any_size_are_answered_by_the_same_words(server: RunningServer, count: int) -> None:
    numbers = (np.arange(count) % 128 / 2).tolist()
    answer = server.predict("numbers", json={"x": numbers, "note": "ä"})
    assert answer.status_code == 200, answer.text[:300]
    found = answer.json()
    assert [*found] == ["total", "twice", "note"]
    assert found["total"] == math.fsum(numbers)
    assert found["twice"] == [2 * number for number in numbers]
    assert found["note"] == "ä"
    outer = server.predict("outer", json={"x": numbers, "note": "ä"})
    assert outer.content == answer.content
    wrong = server.predict("numbers", json={"x": [*numbers, "one"], "note": "ä"})
    assert (wrong.status_code, wrong.json()["message"]) == (
        400,
        'input "x": expected nested lists of float32 of equal lengths: they are no numbers',
    )
    assert bool(codecs(server)) is (count >= MANY)
