"""A pipeline's nodes as the engine asks them: each work becomes a call to whoever serves the node."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from pdarchiver.pipeline.graph import ANY, FAILURES, POSITIONS, ModelBody
from pdserver.engine.pipeline.trace import Trace
from pdserver.engine.queue import Call
from pdserver.engine.served import Served
from pdserver.errors import InvalidRequest, PdError, Unavailable
from pdserver.large_data import put_beside
from pdserver.memory_file import MemoryFile
from pdserver.pipeline import asking
from pdserver.pipeline.asking import Question
from pdserver.pipeline.run import Result, Work
from pdserver.types import Answered, Failure, NodeRun, Outcome, Output, Reply, Request

_NESTED_MOST = 8
"""How deep pipelines may ask pipelines: models of the store can be replaced by what asks them in turn."""


class Asker(Protocol):
    """What a node's request takes over from the pipeline's."""

    request: Request
    depth: int
    """How many pipelines have asked one another."""
    clock: Callable[[], float]
    """The engine's."""
    trace: Trace | None
    """Takes the spans of nodes; None: nobody wants them."""

    def fail(self, error: PdError) -> None:
        """Fail the whole request, whatever the node's `on_error` says."""

    def broken(self, error: Exception) -> None:
        """The server itself has failed at it."""


class Target(Protocol):
    """Who runs a node."""

    def ask(self, work: Work, asker: Asker) -> None:
        """Have the work done; `work.settle` gets what comes of it. Raises PdError when it is refused."""


class NodeCall(Call):
    """A node's request on its way. It was accepted with the pipeline's, so no queue is too full for it."""

    accepted = True
    entrypoint = "PIPELINE"

    def __init__(self, work: Work, question: Question, asker: Asker) -> None:
        question = _beside(question)
        super().__init__(question.request, asker.clock(), question.kept)
        self.depth = asker.depth + 1
        self._asker = asker
        self._work = work
        self._values_of = question.values
        self._ran: tuple[int, Sequence[NodeRun], float] = (0, (), 0.0)
        """Its position in the batch, what nodes of a fused graph did for that, and when it began."""
        work.on_cancel = self.cancel

    def chunk(self, piece: Reply) -> None:
        """A node answers as a whole: of a handler that streams, only what it returns in the end counts."""

    def ran(self, position: int, answered: Answered, now: float) -> None:
        if self._asker.trace is not None:
            self._ran = (position, answered.nodes, now - answered.seconds)

    def settle(self, outcome: Outcome) -> None:
        if self._asker.trace is not None and not self._work.over:
            self._add_spans(self._asker.trace, outcome)
        try:
            self._work.settle(self._result(outcome))
        except Exception as error:  # noqa: BLE001 - what goes wrong behind this node is the request's alone
            self._asker.broken(error)

    def _add_spans(self, trace: Trace, outcome: Outcome) -> None:
        error = outcome.message if isinstance(outcome, Failure) else ""
        model, version = self.request.model, self.request.version
        span = trace.node(self._work.path, f"{model}/{version}", self.arrived, self.taken, self._asker.clock(), error)
        position, runs, began = self._ran
        pipeline = model.partition(":")[0]
        for run in runs:
            for item, owner in enumerate(run.requests):
                if owner == position:
                    trace.inner(span, f"{pipeline}:{run.node}/{version}", run, item, began)

    def _result(self, outcome: Outcome) -> Result:
        if isinstance(outcome, Failure):
            return outcome
        try:
            return self._values_of(outcome)
        except PdError as error:
            return Failure.of(error)


def _beside(question: Question) -> Question:
    """With large inputs that were made here in a file, if there is room for one."""
    inputs = question.request.inputs.copy()
    files = question.request.files
    pieces = put_beside(inputs, len(files))
    if not pieces:
        return question
    try:
        made = MemoryFile(pieces)
    except Unavailable:
        return question
    request = msgspec.structs.replace(question.request, inputs=inputs, files=[*files, made.seal()])
    return question._replace(request=request, kept=[*question.kept, made])


class CodeTarget:
    """Code in Python, or a graph whose nodes run in one process: workers that are asked by values."""

    def __init__(self, served: Served) -> None:
        self._served = served

    def ask(self, work: Work, asker: Asker) -> None:
        question = asking.to_code(work.inputs, self._served.spec, asker.request, work.node.outputs)
        self._served.submit(NodeCall(work, question, asker))


class ModelTarget:
    """A model that is asked by tensors. `wanted` are the outputs that the pipeline needs; empty: all."""

    def __init__(self, find: Callable[[], Served], wanted: tuple[str, ...]) -> None:
        self._find = find
        self._outputs = tuple(Output(name) for name in wanted if name not in (FAILURES, POSITIONS))

    def ask(self, work: Work, asker: Asker) -> None:
        _check_depth(asker)
        served = self._find()
        interface = served.interface
        if interface is None:  # no item is at fault, so none is left out
            asker.fail(Unavailable(f"model {served.spec.ref} is not loaded yet: try again in a moment"))
            return
        question = asking.to_model(work.inputs, served.spec, asker.request, interface, self._outputs)
        served.submit(NodeCall(work, question, asker))


class OpaqueTarget:
    """A model that is asked as by a plain HTTP request. Its answer is the output `body`."""

    def __init__(self, find: Callable[[], Served]) -> None:
        self._find = find

    def ask(self, work: Work, asker: Asker) -> None:
        _check_depth(asker)
        served = self._find()
        gives = work.node.outputs.get("body", ANY)
        served.submit(NodeCall(work, asking.to_parts(work.inputs, served.spec, asker.request, gives), asker))


def _check_depth(asker: Asker) -> None:
    if asker.depth >= _NESTED_MOST:
        raise InvalidRequest(f"{_NESTED_MOST} pipelines ask one another: one of them asks for itself")


def target(body: ModelBody, find: Callable[[], Served], wanted: tuple[str, ...]) -> Target:
    return OpaqueTarget(find) if body.opaque else ModelTarget(find, wanted)
