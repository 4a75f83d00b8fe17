"""The vocabulary that the rooms of the server share. All of it is frozen.

These are msgspec structs, not dataclasses, because the same objects cross to the worker: a dialect builds a request
once, and it is encoded as it is. Making a struct costs a tenth of making a frozen dataclass.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal, TypeAlias

import msgspec

from pdserver.errors import Kind, Missing, PdError

Binary: TypeAlias = bytes | bytearray
"""What handlers get for data that is neither JSON nor text."""


class Part(msgspec.Struct, frozen=True, array_like=True, tag="p", gc=False):
    """An opaque input: bytes with a content type, which the worker decodes for the handler.

    `name` is the multipart field's name, or "body" for a request of one piece.
    """

    name: str
    content_type: str
    data: bytes
    """Any bytes-like object. In a worker, for a large input, it is a read-only memoryview of a memory file."""
    file: int = -1
    """The index of the request's file that holds the data, `size` bytes from `start`; -1: the data is in `data`."""
    start: int = 0
    size: int = 0


class Tensor(msgspec.Struct, frozen=True, array_like=True, tag="t", gc=False):
    """A typed input or output: `data` is C-contiguous and little-endian.

    `dtype` is numpy's name ("float32", "int64", …), "bfloat16" (two bytes an element), or "bytes" (elements of any
    length, each preceded by its length as uint32).
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: bytes
    """Any bytes-like object."""
    file: int = -1
    """The index of the file that holds the data, `size` bytes from `start`; -1: the data is in `data`."""
    start: int = 0
    size: int = 0


Parameter = bool | int | float | str


class Output(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An output that a typed request asks for."""

    name: str
    """"" stands for all of them."""
    classes: int = 0
    """More than 0: instead of the numbers, so many of the likeliest classes, as text "value:index[:label]"."""


class SequenceStep(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A request's place in a sequence of requests to a stateful model."""

    id: str
    """Of the sequence."""
    starts: bool = False
    """Whether it is the sequence's first request."""
    ends: bool = False
    """Whether it is the last one."""


class Request(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One prediction, as a dialect understood it. Dialects may add fields for their answers; workers ignore these."""

    model: str
    version: str | None
    """None means the model's default version."""
    id: str
    inputs: list[Part | Tensor]
    headers: list[tuple[bytes, bytes]] = []
    """As received, names in lower case."""
    path: str = ""
    """What followed the model and version in the URL (TorchServe's `url_path`)."""
    verb: Literal["predict", "explain", "describe"] = "predict"
    files: list[int] = []
    """Descriptors of the memory files that hold large inputs. Whoever received the request owns them."""
    envelope: str = ""
    """How the body wraps the inputs, if the protocol says so; otherwise the model's settings do."""
    typed: bool = False
    """Whether tensors come in and are to go out. If not, inputs and answer are opaque: the handler knows their form."""
    outputs: tuple[Output, ...] = ()
    """Those that a typed request asks for; empty: all."""
    parameters: dict[str, Parameter] = {}
    """For the handler."""
    rows: int = 1
    """How many rows of a batch it takes."""
    timeout_seconds: float = 0.0
    """From its arrival; it is not run after that. 0: no timeout."""
    priority: int = 0
    """1 is the highest; 0: the model's default."""
    sequence: SequenceStep | None = None
    """None: the protocol marks no begin and no end. Then a header names the sequence (`SequenceHeaders`), the first
    request that names it begins it, and the handler ends it."""
    lists: dict[str, int] | None = None
    """Of a request to a pipeline's node in Python: how many of the inputs make up the list of each name; those of one
    list follow each other. Its outcome is `Values`. None: the request is no node's."""


class RelayedRequest(Request, frozen=True, array_like=True, gc=False):
    """A request whose answer is passed on: to a pipeline's next node, or to another process of the server. What is
    large in the answer can go as the file that it came in."""


class Reply(msgspec.Struct, frozen=True, array_like=True, tag="r", gc=False):
    """The handler's answer to one request."""

    body: bytes
    """Any bytes-like object."""
    content_type: str
    status: int = 200
    reason: str = ""
    headers: list[tuple[str, str]] = []
    file: int = -1
    """The index of the file that holds the body, `size` bytes from `start`; -1: the body is in `body`."""
    start: int = 0
    size: int = 0
    tensors: list[Tensor] = []
    """The answer to a typed request, whose body is empty."""
    parameters: dict[str, Parameter] = {}
    """Those of the answer to a typed request."""


class Values(Reply, frozen=True, array_like=True, tag="v", gc=False):
    """What a pipeline's node in Python gave: `tensors` and `parts` by their names."""

    parts: list[Part] = []
    lists: dict[str, int] = {}
    """How many of the tensors, or of the parts, make up the list of each name; those of one list follow each other."""


class Failure(msgspec.Struct, frozen=True, array_like=True, tag="f", gc=False):
    """Why a request has no answer. `status` is an HTTP status that the handler asked for; 0: the kind's own."""

    kind: Kind
    message: str
    status: int = 0
    missing: Missing | None = None
    """The model that is not served here, if that is why."""

    @classmethod
    def of(cls, error: PdError) -> Failure:
        return cls(error.kind, str(error), error.status, error.missing)

    @classmethod
    def internal(cls, error: BaseException) -> Failure:
        """For an error that nobody foresaw. Its message may say anything, so the client learns its type only."""
        return cls(Kind.HANDLER, f"internal error ({type(error).__name__}); the server's log has more")


Outcome = Reply | Failure


class Measured(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One value that a handler measured, under the handler's name; the server's metrics decide what becomes of it."""

    name: str
    value: float
    """A counter grows by it; a gauge is set to it; a histogram counts it as an observation."""
    unit: str
    """As written in TorchServe's metric logs: "Count", "Milliseconds", "Percent", …"""
    type: Literal["counter", "gauge", "histogram"] = "counter"
    dimensions: dict[str, str] = {}
    """Label → value, in the handler's order."""
    request_id: str = ""
    """The request that it was measured for; empty: none in particular."""


class NodeRun(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One run of a node of a fused graph, for items of one request of the batch or of several."""

    node: str
    """Its path."""
    requests: list[int]
    """Of each item, the position of its request in the batch."""
    rows: int
    began_seconds: float
    """From the batch's beginning."""
    seconds: float
    """As of `Answered`, as what follows."""
    input_seconds: float
    output_seconds: float
    executions: int
    failures: dict[int, Failure] = {}
    """By the items' positions in the run."""


class Answered(msgspec.Struct, frozen=True, array_like=True, tag="answered", gc=False):
    """What a worker answers to a batch."""

    id: int
    """The batch's number: shows that this is the answer to that batch."""
    outcomes: list[Reply | Values | Failure]
    """In the order of the batch's requests."""
    seconds: float
    """How long the handler had the batch."""
    measured: list[Measured] = []
    """What the handler measured meanwhile."""
    input_seconds: float = 0.0
    """Of `seconds`, what reading the inputs took."""
    output_seconds: float = 0.0
    """Of `seconds`, what writing the answers took."""
    executions: int = 1
    """How many times the handler was called, or the model run, for it."""
    due_for_replacement: str = ""
    """Why the worker should be replaced, once it should."""
    nodes: list[NodeRun] = []
    """Of a fused graph, what its nodes did, in the order in which they ran."""
    engines: tuple[RunningEngine, ...] = ()
    """What runs the model's models from now on, where another engine has taken over."""


class Declared(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A metric that metrics.yaml declares."""

    name: str
    type: Literal["counter", "gauge", "histogram"]
    unit: str
    dimensions: tuple[str, ...]


class Port(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One input or output of a loaded model, as typed requests see it. -1 in a shape: any length."""

    name: str
    dtype: str
    """As that of a Tensor."""
    shape: tuple[int, ...]
    labels: dict[int, str] = {}
    """The names of an output's classes, by index; classes without a name are left out."""
    source: str = ""
    """The model's own name for it; empty: the same."""
    optional: bool = False
    """Whether a request may leave this input out."""
    any_rank: bool = False
    """Whether it may have any number of axes. Its shape is (-1,) then."""


class EngineFigures(msgspec.Struct, frozen=True, kw_only=True):
    """What a trial has found out about one engine."""

    engine: str
    """Its name, with the precision if that is not the model's own."""
    milliseconds: tuple[float, ...] = ()
    """The median of a run, for each sample; none if the engine is out."""
    difference: float | None = None
    """The largest one from the reference, as a share of the largest number. None: it was not compared."""
    out: str = ""
    """Why it can't be chosen. "" if it can."""
    wrong: bool = False
    """Whether it is out because its answers are not the reference's."""


class EngineTrial(msgspec.Struct, frozen=True, kw_only=True):
    """Which engine runs a model best, and how that was found out."""

    chosen: str
    """The engine's name."""
    figures: tuple[EngineFigures, ...]
    sizes: tuple[Annotated[int, msgspec.Meta(ge=1, le=2**31)], ...]
    """The numbers of rows of the samples, in the order of `EngineFigures.milliseconds`."""
    inputs: str = ""
    """Where they come from: "samples" of the archive, its "warmup", or "made" up."""


class RunningEngine(msgspec.Struct, frozen=True, array_like=True):
    """What runs a model."""

    name: str
    """With the precision unless that is float32: "openvino"."""
    trial: EngineTrial | None = None
    """By which it was chosen. None: there was none."""
    remembered: bool = False
    """Whether the trial was made before this worker was started."""
    model: str = ""
    """The folder of the model, where a handler has several in a row."""
    node: str = ""
    """The path of the node whose model it is, where several nodes of a pipeline run in the worker."""


def engine_names(engines: Iterable[RunningEngine]) -> tuple[str, ...]:
    """Each name once, in the order of the models."""
    return tuple(dict.fromkeys(engine.name for engine in engines))


class Interface(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a loaded model takes and gives."""

    inputs: list[Port]
    outputs: list[Port]
    batched: bool
    """Whether the first axis of every input and output is the batch."""
    opaque: bool = False
    """Whether the handler takes and gives something else when it is not asked by tensors: pictures and labels, say."""
    engines: tuple[RunningEngine, ...] = ()
    """What runs the model, or each of several. Empty: the handler's own affair."""


class ModelRef(msgspec.Struct, frozen=True, gc=False):
    """A version of a model, by name."""

    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name}/{self.version}"


class SequenceHeaders(msgspec.Struct, frozen=True):
    """By what requests and answers of stateful models say which sequence they belong to, and that it begins or ends."""

    id: str = "ts_request_sequence_id"
    start: str = "ts_request_sequence_start"
    end: str = "ts_request_sequence_end"
