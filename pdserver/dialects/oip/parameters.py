"""A request's own parameters: those that say how it is to be treated, and those that are for the model.

Source: Triton's parameters, sequence and schedule policy extensions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from pdserver.dialects.base import Headers
from pdserver.errors import InvalidRequest
from pdserver.formats.values import shown
from pdserver.types import ModelSpec, Parameter

BINARY_OUTPUT = "binary_data_output"
_RESERVED = "triton_"
_TRUE = b"true"
_MAX_PARAMETERS = 1000


class Treatment(NamedTuple):
    """`headers` name the request's sequence; `parameters` are for the model."""

    headers: Headers
    parameters: dict[str, Parameter]
    timeout_seconds: float = 0.0
    priority: int = 0
    binary_output: bool = False
    """What holds for outputs that don't say whether they are to be binary."""


_PLAIN = Treatment([], {})
_BINARY = Treatment([], {}, binary_output=True)


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
    sequence: Headers = []
    parameters: dict[str, Parameter] = {}
    timeout_seconds, priority, binary_output = 0.0, 0, False
    for name, value in given.items():
        if name == BINARY_OUTPUT:
            binary_output = truth(name, value)
        elif name == "timeout":
            timeout_seconds = whole(name, value) / 1e6
        elif name == "priority":
            priority = whole(name, value)
        elif name == "sequence_id":
            sequence += _sequence_id(value, spec)
        elif name in ("sequence_start", "sequence_end"):
            if truth(name, value):
                headers = spec.sequence_headers
                flag = headers.start if name == "sequence_start" else headers.end
                sequence.append((flag.lower().encode(), _TRUE))
        elif name.startswith(_RESERVED):
            raise InvalidRequest(
                f"parameter '{shown(name)}': names that begin with '{_RESERVED}' are reserved and can't be used"
            )
        else:
            parameters[name] = _parameter(name, value)
    _check_sequence(sequence, spec)
    return Treatment(sequence, parameters, timeout_seconds, priority, binary_output)


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


def _sequence_id(value: object, spec: ModelSpec) -> Headers:
    """None for 0 and "", which mean that there is no sequence."""
    header = id_header(spec)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**64:
        return [(header, str(value).encode())] if value else []
    if isinstance(value, str) and len(value) <= 128 and value.isprintable() and value.isascii():
        return [(header, value.encode())] if value else []
    raise InvalidRequest(
        f"parameter 'sequence_id' is {shown(value)}: expected a whole number from 0, or text of at most 128 "
        "ASCII characters"
    )


def id_header(spec: ModelSpec) -> bytes:
    return spec.sequence_headers.id.lower().encode()


def _check_sequence(sequence: Headers, spec: ModelSpec) -> None:
    named = any(name == id_header(spec) for name, _ in sequence)
    if sequence and not named:
        raise InvalidRequest("sequence_start and sequence_end need the sequence's name: parameter 'sequence_id'")
    if spec.sequence_batching and not named:
        raise InvalidRequest(
            f"inference request to model '{spec.name}' must specify a non-zero or non-empty correlation ID: "
            "parameter 'sequence_id'"
        )


def _parameter(name: str, value: object) -> Parameter:
    if isinstance(value, bool | int | float | str):
        return value
    raise InvalidRequest(f"parameter '{shown(name)}' is {shown(value)}: expected a number, text, true or false")
