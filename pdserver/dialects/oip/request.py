"""What this protocol adds to a request: how its answer is to be written, and what its parameters ask for.

Source: Triton's binary tensor data, shared memory, parameters, sequence and schedule policy extensions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import msgspec

from pdserver.configuration.model import ModelSpec
from pdserver.dialects.base import Headers
from pdserver.errors import InvalidRequest
from pdserver.formats.values import shown
from pdserver.types import Output, Parameter, Request, SequenceStep

BINARY_OUTPUT = "binary_data_output"
_RESERVED = "triton_"
_TRUE = b"true"
_SEQUENCE = ("sequence_id", "sequence_start", "sequence_end")
_MAX_PARAMETERS = 1000

Shared = list[tuple[int, str]]
"""The regions of shared memory that a request names, each with the place of the input whose window there is `start` and
`size` of its tensor, or -1 for an output, whose window is in its form."""


class Form(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """How an output is to be written: as JSON, as binary data, or to a window of a shared memory region."""

    binary: bool = False
    region: str = ""
    """Empty: none. The window is `size` bytes from `offset` in it."""
    offset: int = 0
    size: int = 0


Forms = dict[str, Form]
"""By the outputs' names; under "", the form of those that are not named."""
AS_JSON = Form()
AS_BINARY = Form(binary=True)
ALL_JSON: Forms = {}
ALL_BINARY: Forms = {"": AS_BINARY}


class InferRequest(Request, frozen=True, array_like=True, gc=False):
    """A request of this protocol, with what only the writer of its answer needs."""

    own_id: bool = False
    """Whether the client gave the id; then the answer has it."""
    forms: Forms = msgspec.field(default_factory=dict)
    shared: Shared = msgspec.field(default_factory=list)
    accepts: bytes = b""
    """The client's Accept-Encoding."""
    empty_final: bool = False
    """Whether the client of a stream wants an empty answer at its end, where nothing else marks the end."""

    @property
    def client_id(self) -> str:
        """The id that the client gave; empty when it gave none."""
        return self.id if self.own_id else ""


class Treatment(NamedTuple):
    """What a request's parameters say."""

    headers: Headers
    """They tell the handler about the request's sequence."""
    parameters: dict[str, Parameter]
    """For the model."""
    timeout_seconds: float = 0.0
    priority: int = 0
    form: Form = AS_JSON
    """For outputs that ask for no other."""
    sequence: SequenceStep | None = None


_PLAIN = Treatment([], {})
_BINARY = Treatment([], {}, form=AS_BINARY)


def treatment(given: Mapping[str, object] | None, spec: ModelSpec) -> Treatment:
    """Raises InvalidRequest."""
    given = given or {}
    if not spec.sequence_batching:
        if not given:
            return _PLAIN
        if len(given) == 1 and given.get(BINARY_OUTPUT) is True:
            return _BINARY
    if len(given) > _MAX_PARAMETERS:
        raise InvalidRequest(f"the request has {len(given):,} parameters: at most {_MAX_PARAMETERS:,}")
    parameters: dict[str, Parameter] = {}
    timeout_seconds, priority, binary_output = 0.0, 0, False
    for name, value in given.items():
        if name == BINARY_OUTPUT:
            binary_output = truth(name, value)
        elif name == "timeout":
            timeout_seconds = whole(name, value) / 1e6
        elif name == "priority":
            priority = whole(name, value)
        elif name in _SEQUENCE:
            continue
        elif name.startswith(_RESERVED):
            raise InvalidRequest(
                f"parameter '{shown(name)}': names that begin with '{_RESERVED}' are reserved and can't be used"
            )
        else:
            parameters[name] = _parameter(name, value)
    step = _sequence_step(given, spec)
    form = AS_BINARY if binary_output else AS_JSON
    return Treatment(_headers(step, spec), parameters, timeout_seconds, priority, form, step)


def read_outputs(
    wanted: Iterable[tuple[str, dict[str, Any] | None]], asked: Treatment, shared: Shared
) -> tuple[tuple[Output, ...], Forms]:
    """The outputs that a request names, each with its parameters; regions of shared memory are added to `shared`.

    Raises InvalidRequest.
    """
    outputs: list[Output] = []
    forms: Forms = {}
    for name, parameters in wanted:
        output, form = _output(name, parameters, asked, shared) if parameters else (Output(name), asked.form)
        outputs.append(output)
        forms[name] = form
    return tuple(outputs), forms


def _output(name: str, parameters: dict[str, Any], asked: Treatment, shared: Shared) -> tuple[Output, Form]:
    title = f"output '{shown(name)}': "
    classes = whole("classification", parameters.get("classification", 0), title)
    binary = parameters.get("binary_data")
    if "classification" in parameters and not classes:
        raise InvalidRequest(f"{title}parameter 'classification' is 0: expected the number of classes, from 1")
    if parameters.get("shared_memory_region") is None:
        return Output(name, classes), asked.form if binary is None else Form(truth("binary_data", binary, title))
    if classes or binary:
        raise InvalidRequest(
            f"{title}shared memory can't be combined with 'classification' or 'binary_data': leave one of them out"
        )
    region, offset, size = window(title, parameters)
    shared.append((-1, region))
    return Output(name), Form(False, region, offset, size)


def window(title: str, parameters: dict[str, Any]) -> tuple[str, int, int]:
    """The region, offset and size of a tensor in shared memory. Raises InvalidRequest."""
    region = parameters["shared_memory_region"]
    if not isinstance(region, str):
        raise InvalidRequest(f"{title}parameter 'shared_memory_region' is {shown(region)}: expected a region's name")
    if "shared_memory_byte_size" not in parameters:
        raise InvalidRequest(f"{title}'shared_memory_region' needs the parameter 'shared_memory_byte_size'")
    size = whole("shared_memory_byte_size", parameters["shared_memory_byte_size"], title)
    return region, whole("shared_memory_offset", parameters.get("shared_memory_offset", 0), title), size


def truth(name: str, value: object, title: str = "") -> bool:
    """Raises InvalidRequest; `title` says whose parameter it is."""
    if isinstance(value, bool):
        return value
    raise InvalidRequest(f"{title}parameter '{shown(name)}' is {shown(value)}: expected true or false")


def whole(name: str, value: object, title: str = "") -> int:
    """A whole number from 0. Raises InvalidRequest; `title` says whose parameter it is."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63:
        return value
    raise InvalidRequest(f"{title}parameter '{shown(name)}' is {shown(value)}: expected a whole number from 0")


def _sequence_step(given: Mapping[str, object], spec: ModelSpec) -> SequenceStep | None:
    """Raises InvalidRequest."""
    own_id = _sequence_id(given.get("sequence_id", 0))
    starts, ends = (truth(name, given.get(name, False)) for name in ("sequence_start", "sequence_end"))
    if own_id:
        return SequenceStep(own_id, starts, ends)
    if starts or ends:
        raise InvalidRequest("sequence_start and sequence_end need the sequence's name: parameter 'sequence_id'")
    if spec.sequence_batching:
        raise InvalidRequest(
            f"inference request to model '{spec.name}' must specify a non-zero or non-empty correlation ID: "
            "parameter 'sequence_id'"
        )
    return None


def _sequence_id(value: object) -> str:
    """Empty for 0 and "", which mean that there is no sequence."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**64:
        return str(value) if value else ""
    if isinstance(value, str) and len(value) <= 128 and value.isprintable() and value.isascii():
        return value
    raise InvalidRequest(
        f"parameter 'sequence_id' is {shown(value)}: expected a whole number from 0, or text of at most 128 "
        "ASCII characters"
    )


def _headers(step: SequenceStep | None, spec: ModelSpec) -> Headers:
    """By which handlers know sequences, whatever the protocol."""
    if step is None:
        return []
    names = spec.sequence_headers
    flags = ((names.start, step.starts), (names.end, step.ends))
    return [
        (names.id.lower().encode(), step.id.encode()),
        *((name.lower().encode(), _TRUE) for name, is_set in flags if is_set),
    ]


def _parameter(name: str, value: object) -> Parameter:
    if isinstance(value, bool | int | float | str):
        return value
    raise InvalidRequest(f"parameter '{shown(name)}' is {shown(value)}: expected a number, text, true or false")
