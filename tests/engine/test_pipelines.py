"""A pipeline in an engine on the virtual clock: whatever happens to workers, models and clients, each request has one
answer, its own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pdarchiver.manifest import Manifest
from pdarchiver.pipeline.graph import Graph, ModelBody, Node, Pipeline, PythonBody, Ref, Source, Type
from pdserver.errors import Kind, ModelNotFound, PdError, Unavailable
from pdserver.store.model import StoredModel
from pdserver.types import Failure, Outcome, Part, Reply, Request, Values
from tests.engine.changing import EngineWorld, FakeStore
from tests.engine.virtual import Oracle, SeenCall


def source(text: str) -> Source:
    return Source((Ref(*text.split(".")) if "." in text else Ref("", text),))


NODES = [
    Node("cut", PythonBody("steps.py:cut"), {"page": source("page")}, {"words": Type("list")}),
    Node("read", ModelBody("a", opaque=True), {"body": source("cut.words")}, each=("body",), retry=1),
    Node("join", PythonBody("steps.py:join"), {"words": source("read.body")}, {"text": Type("bytes")}),
]
PIPELINE = Pipeline(Graph({"page": Type("bytes")}, {node.name: node for node in NODES}, {"text": source("join.text")}))
WORDS = {b"page": 4, b"blank": 0, b"crowded": 700}
"""A crowded page has more of them than are asked for at once."""
MODEL = {"batch_size": 8, "max_batch_delay_seconds": 0.002, "queue_size": 3}
"""A page has more words than the model's queue takes requests."""


def words_of(page: bytes) -> list[bytes]:
    return [b"%s word %d" % (page, index) for index in range(WORDS[page.split()[0]])]


class Store(FakeStore):
    """`p-1.pdar` holds the pipeline."""

    def open(self, url: str, path: Path | None = None, sha256: str | None = None) -> StoredModel:
        if url != "p-1.pdar":
            return super().open(url, path, sha256)
        self.used += 1
        manifest = Manifest(model_name="p", model_version="1")
        return StoredModel(url, Path("/nowhere"), "digest", manifest, {}, {}, pipeline=PIPELINE)


def answer(request: Request) -> Outcome:
    """Of the model, and of the nodes in Python."""
    data = [given.data for given in request.inputs]
    if request.model == "p:cut":
        words = words_of(data[0])
        return Values(b"", "", parts=[Part("words", "", word) for word in words], lists={"words": len(words)})
    if request.model == "p:join":
        return Values(b"", "", parts=[Part("text", "", b"|".join(data))])
    return Reply(data[0], "")


class Nodes(Oracle):
    """A request is run several times: by its nodes, for its items, and again for dead workers."""

    def begun(self, requests: list[Request]) -> None:
        for request in requests:
            call = self.calls[request.id]
            assert not call.settled, "a node is run for a request that is settled"
            assert not call.cancelled, "a node is run for a client that has left"

    def check(self) -> None:
        for call in self.calls.values():
            assert len(call.settled) <= 1, "it is settled twice"
            for outcome in call.settled:
                if isinstance(outcome, Reply):
                    assert outcome.body == b"|".join(words_of(call.request.inputs[0].data)), "it is another one's"
                elif outcome.kind is Kind.WORKER_DIED:
                    assert call.deaths >= 2, "it failed for one worker's death"
                else:
                    assert outcome.kind in (Kind.DEADLINE, Kind.UNAVAILABLE), outcome


class PipelineWorld(EngineWorld):
    def __init__(self) -> None:
        super().__init__(Store())
        self.oracle = self.backend.oracle = Nodes(self.oracle._spec, self.loop.time)
        self.backend.answers = lambda requests: list(map(answer, requests))  # type: ignore[method-assign]
        self.run(self.register("a-1.pdar", workers=2, settings=MODEL))
        self.run(self.register("p-1.pdar"))

    def page(self, timeout_seconds: float = 0.0, kind: str = "page") -> SeenCall | None:
        """A client's request. None: it was refused."""
        name = str(len(self.oracle.calls))
        request = Request(
            "p", None, name, [Part("page", "", f"{kind} {name}".encode())], timeout_seconds=timeout_seconds
        )
        call = self.oracle.calls[name] = SeenCall(request, self.loop.time)

        async def put() -> None:
            self.engine.submit(call)

        try:
            self.run(put())
        except (ModelNotFound, Unavailable):
            assert not call.settled
            del self.oracle.calls[name]
            return None
        return call

    def waiting(self) -> int:
        """In all queues."""
        return sum(self.engine.details(view.spec.ref).waiting for view in self.engine.catalogue.versions())

    def kill(self, index: int) -> None:
        alive = sorted(self.backend.alive, key=lambda worker: worker.id)
        if alive:
            alive[index % len(alive)].kill("was killed by SIGKILL")

    def end(self) -> None:
        """After time for everything, nothing is left, of the requests nor of what served them."""
        self.backend.broken = False
        self.advance(300)
        self.oracle.check()
        for call in self.oracle.calls.values():
            assert call.settled or call.cancelled, "it was lost"
        assert self.waiting() == 0
        self.run(self.engine.close(5))
        assert not self.backend.alive
        assert not asyncio.all_tasks(self.loop)
        self.loop.close()


def outcome(call: SeenCall | None) -> Outcome:
    assert call is not None
    [found] = call.settled
    return found


@pytest.mark.parametrize("at", [0.001, 0.011, 0.021, 0.031])
def test_the_death_of_any_worker_loses_no_request(at: float) -> None:
    """The first node's, the model's, the last node's: at each time, for each worker."""
    for index in range(4):
        w = PipelineWorld()
        calls = [w.page() for _ in range(3)]
        w.advance(at)
        w.kill(index)
        w.advance(5)
        assert all(isinstance(outcome(call), Reply) for call in calls)
        w.end()


def test_words_of_several_pages_are_one_batch() -> None:
    w = PipelineWorld()
    batches: list[list[Request]] = []
    w.backend.answers = lambda requests: batches.append(requests) or list(map(answer, requests))  # type: ignore
    w.run(w.engine.scale("a", None, 1, synchronous=True))
    for _ in range(3):
        w.page()
    w.advance(1)
    assert max(len({request.id for request in batch}) for batch in batches if batch[0].model == "a") > 1
    w.end()


def test_a_client_that_leaves_takes_its_words_out_of_the_queue() -> None:
    w = PipelineWorld()
    w.backend.seconds = 1.0
    calls = [w.page() for _ in range(20)]
    w.advance(2.5)
    assert w.waiting() > 50
    for call in calls:
        assert call is not None
        call.cancel()
    assert w.waiting() == 0
    w.end()
    assert not any(call.settled for call in calls if call)


def test_a_model_that_is_gone_fails_the_request_and_says_so() -> None:
    w = PipelineWorld()
    call = w.page()
    w.run(w.engine.unregister("a"))
    w.advance(1)
    failure = outcome(call)
    assert isinstance(failure, Failure)
    assert failure.kind is Kind.UNAVAILABLE
    assert failure.message == "node read, item 0: Model not found: a: register it again"  # the pipeline can't be meant
    w.run(w.register("a-1.pdar", settings=MODEL))
    again = w.page()
    w.advance(1)
    assert isinstance(outcome(again), Reply)
    w.end()


Action = Callable[[PipelineWorld], Coroutine[Any, Any, object]]
ACTIONS: dict[str, Action] = {
    "replace the model": lambda w: w.register("a-1.pdar", workers=2, replace=True, settings=MODEL),
    "register the model": lambda w: w.register("a-1.pdar", settings=MODEL),
    "unregister the model": lambda w: w.engine.unregister("a"),
    "scale the model to 0": lambda w: w.engine.scale("a", None, 0),
    "scale the model to 3": lambda w: w.engine.scale("a", None, 3),
    "replace the pipeline": lambda w: w.register("p-1.pdar", replace=True),
    "register the pipeline": lambda w: w.register("p-1.pdar"),
    "unregister the pipeline": lambda w: w.engine.unregister("p"),
}


@pytest.mark.parametrize("name", ["replace the model", "replace the pipeline"])
def test_what_is_replaced_while_requests_flow_loses_none(name: str) -> None:
    w = PipelineWorld()
    calls = []
    for turn in range(100):
        if turn % 25 == 10:
            w.loop.create_task(ACTIONS[name](w))
        calls.append(w.page())
        w.advance(0.02)
    w.advance(5)
    assert all(isinstance(outcome(call), Reply) for call in calls)
    assert w.backend.spawned == 4 + 4 * 2
    w.end()


PAGES = [(0.0, "page")] * 4 + [(0.02, "page"), (0.5, "page"), (0.0, "blank"), (0.8, "crowded")]
"""The client's timeout, and what it sends."""
EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["ask"] * 12 + ["leave", "kill", "slow", "fast", "break", "mend", *ACTIONS]),
        st.integers(0, 7),
        st.sampled_from([0.0, 0.0, 0.005, 0.013, 0.1, 1.0]),  # until the next
    ),
    min_size=10,
    max_size=40,
)


async def tried(change: Coroutine[Any, Any, object]) -> None:
    with contextlib.suppress(PdError):
        await change


@settings(max_examples=25, deadline=None)
@given(EVENTS)
def test_each_request_has_one_answer_of_its_own_whatever_happens(events: list[tuple[str, int, float]]) -> None:
    w = PipelineWorld()
    for action, number, pause in events:
        calls = list(w.oracle.calls.values())
        if action == "ask":
            w.page(*PAGES[number])
        elif action == "leave" and calls:
            call = calls[-1 - number % len(calls)]
            if not call.settled:
                call.cancel()
        elif action == "kill":
            w.kill(number)
        elif action in ("slow", "fast"):
            w.backend.seconds = 0.3 if action == "slow" else 0.01
        elif action in ("break", "mend"):
            w.backend.broken = action == "break"
        elif action in ACTIONS:
            w.loop.create_task(tried(ACTIONS[action](w)))
        w.advance(pause)
        w.oracle.check()
    w.end()
