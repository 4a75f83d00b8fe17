"""Answers, errors and measurements that no frame can hold: `{"op": …}`. Who says nothing gets "ok"."""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from pdserver.errors import InvalidRequest, PdError
from pdserver.handlers.base import PredictionException
from pdserver.handlers.runtime.parts import opened

HALF = "\ud800"


def handle(data: list[dict[str, Any]] | None, context: Any) -> Any:
    if data is None:
        return None
    answers: list[Any] = []
    for index, row in enumerate(data):
        op = body.get("op") if isinstance(body := opened(row.get("body")), dict) else None
        answers.append(OPERATIONS[op](context, index) if op else "ok")
    return Liar(answers) if "a list that lies" in answers else answers


class Mute(Exception):
    def __str__(self) -> str:
        raise SystemExit("no words")


class Odd(PdError):
    kind = "its own"  # type: ignore[assignment]


class Bare(PredictionException):
    def __init__(self) -> None:
        pass


class Last(BaseException):
    pass


class Liar(list[Any]):
    def __iter__(self) -> Any:
        return iter([])


class Closed:
    def write(self, text: str) -> int:
        raise OSError("closed")

    def flush(self) -> None:
        raise OSError("closed")


class Value:
    def numpy(self) -> Any:
        raise Last(HALF)


def raises(*errors: BaseException) -> Callable[[Any, int], Any]:
    def operation(context: Any, index: int) -> Any:
        raise errors[0]

    return operation


def answers(value: Any) -> Callable[[Any, int], Any]:
    return lambda context, index: value


def raise_without_stderr(context: Any, index: int) -> Any:
    sys.stderr = Closed()
    raise ValueError(HALF)


def header(context: Any, index: int) -> Any:
    context.set_response_header(index, np.str_("x-label"), np.str_("cat"))
    return "ok"


def content_type(context: Any, index: int) -> Any:
    context.set_response_content_type(index, HALF)
    return "ok"


def metrics(context: Any, index: int) -> Any:
    context.metrics.add_counter(HALF, 1)
    context.metrics.add_metric(5, 1.0, "unit", dimensions={7: object()})
    context.metrics.add_metric("Half", 1.0, HALF, dimensions={HALF: "x"})
    context.metrics.add_counter("Good", 1)
    return "ok"


def piece(context: Any, index: int) -> Any:
    context.send_intermediate([{"a": HALF}])
    return "ok"


FAILING: dict[str, Callable[[Any, int], Any]] = {
    "half a pair in an error": raises(ValueError(HALF)),
    "half a pair in the server's own error": raises(InvalidRequest(HALF)),
    "half a pair in the handler's error": raises(PredictionException(HALF, 503)),
    "an error that has no words": raises(Mute()),
    "an error of an odd kind": raises(Odd("odd")),
    "an error without a message": raises(Bare()),
    "an error whose message is none": raises(PredictionException({"a": object()}, 1 << 80)),  # type: ignore[arg-type]
    "an error that says much": raises(ValueError("x" * 50_000_000)),
    "no Exception": raises(Last(HALF)),
    "stderr is broken": raise_without_stderr,
    "a value that raises": answers(Value()),
    "a failure for itself": answers(ValueError(HALF)),
    "half a pair as an answer": answers([HALF]),
    "a large number": answers({"x": 10**100}),
    "half a pair as the content type": content_type,
    "a piece": piece,
    "a list that lies": answers("a list that lies"),
}
OPERATIONS = {**FAILING, "header": header, "metrics": metrics}
ALONE = ("a value that raises", "a failure for itself", "half a pair as an answer", "a large number",
         "half a pair as the content type")  # fmt: skip
"""Those that are about one row, not about the batch."""
