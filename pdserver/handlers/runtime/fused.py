"""A fused graph: all of its nodes in one worker process, one after the other, for all requests of the batch together.

The engine asks it by values, as it asks a node in Python. Here, `pdserver.pipeline.run` schedules the nodes, each of
which is a `Service` of its own, loaded by its own spec. In each round, what the runs of all requests have started is
run node by node, as batches up to the node's `batchSize`.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from pdarchiver.pipeline.graph import ANY, FAILURES, POSITIONS, ModelBody
from pdserver.configuration.model import ModelSpec
from pdserver.errors import HandlerFailed, Kind, LoadFailed, PdError
from pdserver.formats.values import shown
from pdserver.handlers.runtime.isolation import SendPiece
from pdserver.handlers.runtime.service import Service
from pdserver.handlers.runtime.typed import OPAQUE, Times
from pdserver.pipeline import asking, fused
from pdserver.pipeline.asking import Question
from pdserver.pipeline.run import MOST_WAITING, TOO_MANY, Plan, Result, Run, Step, Work
from pdserver.types import (
    Declared,
    Failure,
    Interface,
    Measured,
    NodeRun,
    Outcome,
    Output,
    Reply,
    Request,
    RunningEngine,
    Tensor,
    Values,
)


class FusedService:
    """One copy of a whole graph, as `Service` is of one model."""

    def __init__(self, spec: ModelSpec, device_id: int | None, metrics: Sequence[Declared] = ()) -> None:
        given = fused.read(spec)
        self._directory = spec.directory
        self._plan = Plan(given.graph, given.place)
        self._nodes: dict[str, _FusedNode] = {}
        for step in self._plan.leaves():
            own = given.nodes[step.path]
            self._nodes[step.path] = _FusedNode(step, own, Service(own, device_id, metrics))
        self.times = Times()
        """Of the last batch."""

    def load(self) -> Interface:
        """Load all nodes. Raises LoadFailed."""
        for node in self._nodes.values():
            node.service.open_model()  # the engines of all are tried before the first one is loaded
        for path, node in self._nodes.items():
            os.chdir(node.spec.directory)  # as in a worker of its own
            try:
                node.load()
            except LoadFailed as error:
                raise LoadFailed(f"node {path}: {error}", error.kind) from error
        os.chdir(self._directory)
        return msgspec.structs.replace(OPAQUE, engines=self._engines())

    def run(self, requests: list[Request], send_piece: SendPiece | None = None) -> list[Outcome]:
        """The values of the graph's outputs, or a failure, for each request. It answers as a whole, without pieces."""
        self.times = Times()
        batch = _Batch(requests)
        outcomes: dict[int, Outcome] = {}
        for index, request in enumerate(requests):
            inputs = asking.grouped(request.inputs, request.lists or ())
            executor = _Executor(batch, index)
            run = Run(self._plan, inputs, executor, functools.partial(_end, outcomes, index))
            executor.give_up = functools.partial(_give_up, run, outcomes, index)
            run.begin()
        while batch.started:
            started, batch.started = batch.started, {}
            batch.round += 1
            for path, works in started.items():
                self._nodes[path].run(works, batch, self.times)
        return [outcomes[index] for index in range(len(requests))]

    def _engines(self) -> tuple[RunningEngine, ...]:
        """What runs its nodes' models."""
        return tuple(
            msgspec.structs.replace(engine, node=path)
            for path, node in self._nodes.items()
            for engine in node.service.engines
        )

    def take_engines(self) -> tuple[RunningEngine, ...]:
        """As `Service` has it, of all nodes."""
        changed = [node for node in self._nodes.values() if node.service.take_engines()]
        return self._engines() if changed else ()

    def take_measured(self) -> list[Measured]:
        return [value for node in self._nodes.values() for value in node.service.take_measured()]


def _end(outcomes: dict[int, Outcome], index: int, result: Result) -> None:
    outcomes[index] = result if isinstance(result, Failure) else _answer(result)


def _give_up(run: Run, outcomes: dict[int, Outcome], index: int) -> None:
    run.cancel()
    outcomes[index] = Failure(Kind.INVALID, TOO_MANY)


def _answer(result: Mapping[str, Any]) -> Outcome:
    items, lists = asking.flattened(result)
    values = Values(b"", "", lists=lists)
    for item in items:
        given = item.given
        if isinstance(given, Tensor):
            values.tensors.append(given)
        else:
            values.parts.append(given)
    for name in {tensor.name for tensor in values.tensors} & {part.name for part in values.parts}:
        return Failure.of(HandlerFailed(f'output "{shown(name)}": some of its items are tensors, and some are not'))
    return values


class _Batch:
    """The runs of all requests of a batch."""

    def __init__(self, requests: Sequence[Request]) -> None:
        self.requests = requests
        self.began = time.perf_counter()
        self.started: dict[str, list[tuple[Work, int]]] = {}
        """What nobody has run yet, by the nodes' paths, each with the position of the request that it is a part of."""
        self.round = 0
        self._timers: dict[object, tuple[float, Callable[[], None]]] = {}

    def later(self, seconds: float, callback: Callable[[], None]) -> Callable[[], object]:
        token = object()
        self._timers[token] = (time.perf_counter() + seconds, callback)
        return lambda: self._timers.pop(token, None)

    def call_back(self, now: float) -> None:
        """Call back those whose time has come: only between the nodes' runs is there anybody to do so."""
        for token in [token for token, (due, _) in self._timers.items() if due <= now]:
            if timer := self._timers.pop(token, None):
                timer[1]()


class _Executor:
    """Of one request's run."""

    def __init__(self, batch: _Batch, index: int) -> None:
        self._batch = batch
        self._index = index
        self.later = batch.later
        self.give_up: Callable[[], None] = lambda: None
        """Called when it has started too much."""
        self._round = 0
        self._started = 0
        """How many works, in that round."""

    def start(self, work: Work) -> None:
        if self._round != self._batch.round:
            self._round, self._started = self._batch.round, 0
        self._started += 1
        if self._started > MOST_WAITING:
            self.give_up()
            return
        self._batch.started.setdefault(work.path, []).append((work, self._index))


class _Asked(NamedTuple):
    work: Work
    question: Question
    place: int
    """The position of its request in the batch."""


class _FusedNode:
    """A node that runs in this process."""

    def __init__(self, step: Step, spec: ModelSpec, service: Service) -> None:
        self.spec = spec
        self.service = service
        self._path = step.path
        self._body = step.node.body
        wanted = step.wanted if step.node.repeat is None else ()
        self._outputs = tuple(Output(name) for name in wanted if name not in (FAILURES, POSITIONS))
        self._interface = OPAQUE

    def load(self) -> None:
        """Raises LoadFailed."""
        self._interface = self.service.load()

    def run(self, works: Sequence[tuple[Work, int]], batch: _Batch, times: Times) -> None:
        """Run and settle all that is not over yet."""
        asked: list[_Asked] = []
        for work, index in works:
            if not work.over:
                try:
                    asked.append(_Asked(work, self._question(work, batch.requests[index]), index))
                except PdError as error:
                    work.settle(Failure.of(error))
        for some in _batches(asked, self.spec.batch_size):
            due = [each for each in some if not each.work.over]
            if due:
                self._run(due, batch, times)

    def _run(self, due: Sequence[_Asked], batch: _Batch, times: Times) -> None:
        """Run and settle what makes one batch."""
        began = time.perf_counter()
        outcomes = self.service.run([each.question.request for each in due])
        ended = time.perf_counter()
        own = self.service.times
        times.executions += own.executions
        times.input_seconds += own.input_seconds
        times.output_seconds += own.output_seconds
        results = [_result(each.question, outcome) for each, outcome in zip(due, outcomes, strict=True)]
        times.nodes.append(
            NodeRun(
                self._path,
                [each.place for each in due],
                sum([each.question.request.rows for each in due]),
                began - batch.began,
                ended - began,
                own.input_seconds,
                own.output_seconds,
                own.executions,
                {position: result for position, result in enumerate(results) if isinstance(result, Failure)},
            )
        )
        batch.call_back(ended)
        for each, result in zip(due, results, strict=True):
            each.work.settle(result)

    def _question(self, work: Work, request: Request) -> Question:
        """Raises InvalidRequest."""
        if not isinstance(self._body, ModelBody):
            return asking.to_code(work.inputs, self.spec, request, work.node.outputs)
        if self._body.opaque:
            return asking.to_parts(work.inputs, self.spec, request, work.node.outputs.get("body", ANY))
        return asking.to_model(work.inputs, self.spec, request, self._interface, self._outputs)


def _batches(asked: Sequence[_Asked], most_rows: int) -> Iterator[Sequence[_Asked]]:
    """As a queue makes them: in their order, up to so many rows."""
    begin = rows = 0
    for index, each in enumerate(asked):
        own_rows = each.question.request.rows
        if index > begin and rows + own_rows > most_rows:
            yield asked[begin:index]
            begin, rows = index, 0
        rows += own_rows
    if asked:
        yield asked[begin:]


def _result(question: Question, outcome: Outcome) -> Result:
    if isinstance(outcome, Failure):
        return outcome
    try:
        return question.values(_read_only(outcome))
    except PdError as error:
        return Failure.of(error)


def _read_only(reply: Reply) -> Reply:
    """The same memory, but nobody who is given it can write to it: others have it as well."""
    _lock(reply.tensors)
    if isinstance(reply, Values):
        _lock(reply.parts)
    return reply


def _lock(given: list[Any]) -> None:
    for index, each in enumerate(given):
        if isinstance(each.data, memoryview) and not each.data.readonly:
            given[index] = msgspec.structs.replace(each, data=each.data.toreadonly())
