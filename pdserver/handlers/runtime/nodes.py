"""A pipeline's node in Python: the values of a request → a row for the handler; what the handler answers → values.

A row's value is a read-only array (a tensor), a bytearray (bytes), a str (text), what JSON has, or a list of these.
An answer is {output: value}: an array is a tensor, bytes are bytes, a str is text, a list or tuple of arrays or of
bytes is a list, an empty one too, and anything else is JSON.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from pdserver.errors import HandlerFailed, InvalidRequest
from pdserver.formats.values import shown
from pdserver.handlers.context import Context, Head
from pdserver.handlers.runtime.answers import body, counted, described, failure, outcome, refusal
from pdserver.handlers.runtime.isolation import Isolation
from pdserver.handlers.runtime.loader import EntryPoint
from pdserver.handlers.runtime.typed import Times
from pdserver.tensors import array, tensor
from pdserver.types import Failure, Outcome, Part, Request, Tensor, Values


class NodeHandler:
    """Runs requests to a node. `read` makes the values of parts, and raises InvalidRequest."""

    def __init__(
        self, entry: EntryPoint, context: Context, isolation: Isolation, read: Callable[[Part | Tensor], Any]
    ) -> None:
        self._entry = entry
        self._context = context
        self._isolation = isolation
        self._read = read

    def run(self, requests: list[Request], times: Times) -> list[Outcome]:
        """Values or a failure for each request. Never raises for anything a handler does."""
        started = time.perf_counter()
        outcomes: dict[int, Outcome] = {}
        rows: list[dict[str, Any]] = []
        for position, request in enumerate(requests):
            try:
                rows.append(row(request, self._read))
            except InvalidRequest as error:
                outcomes[position] = Failure.of(error)
        times.input_seconds += time.perf_counter() - started
        if rows:
            positions = [position for position in range(len(requests)) if position not in outcomes]
            answered = self._handle(rows, [requests[position] for position in positions], times)
            outcomes.update(zip(positions, answered, strict=True))
        return [outcomes[position] for position in range(len(requests))]

    def _handle(self, rows: list[dict[str, Any]], requests: list[Request], times: Times) -> list[Outcome]:
        context = self._context
        context.begin(requests)
        self._isolation.attempt()
        try:
            times.executions += 1
            answers = counted(self._entry.handle(rows, context), len(requests))  # the handler may change `rows`
        except BaseException as error:  # noqa: BLE001 - a handler may even call sys.exit()
            return self._isolation.outcomes(error, len(requests), lambda i: self.run([requests[i]], times)[0])
        started = time.perf_counter()
        heads = context.heads
        outcomes = [_outcome(answer, heads.get(idx), requests[idx].id) for idx, answer in enumerate(answers)]
        times.output_seconds += time.perf_counter() - started
        return outcomes


def row(request: Request, read: Callable[[Part | Tensor], Any]) -> dict[str, Any]:
    """The request's values by name. Raises InvalidRequest."""
    lists = request.lists or {}
    found: dict[str, Any] = {name: [] for name in lists}
    for given in request.inputs:
        value = _array(given) if isinstance(given, Tensor) else read(given)
        if given.name in lists:
            found[given.name].append(value)
        else:
            found[given.name] = value
    return found


def _array(given: Tensor) -> Any:
    held = array(given)
    held.flags.writeable = False  # others may have the same memory
    return held


def _outcome(answer: Any, head: Head | None, own_id: str) -> Outcome:
    """The outcome for one answer. Whatever is wrong with it is the Failure of this answer alone."""
    if isinstance(answer, BaseException):
        return failure(answer, [own_id])
    if head is not None and head.status >= 400:
        refused = outcome(answer, head, own_id)
        return refused if isinstance(refused, Failure) else refusal(refused)
    try:
        return values(answer)
    except BaseException as error:  # noqa: BLE001 - a value's own conversion is the handler's code
        return failure(error, [own_id])


def values(answer: Any) -> Values:
    """What a handler answered for one row. Raises HandlerFailed for what is no dict, or can't be passed on."""
    if not isinstance(answer, dict):
        raise HandlerFailed(f"it answered {type(answer).__name__}: expected a dict of its outputs, {{name: value}}")
    found = Values(b"", "")
    for name, value in answer.items():
        if not isinstance(name, str):
            raise HandlerFailed(f"it answered an output called {shown(name)}: expected text as the name")
        if isinstance(value, list | tuple) and (all(map(_is_tensor, value)) or all(map(_is_bytes, value))):
            found.lists[name] = len(value)
            for item in value:
                _add(found, name, item)
        else:
            _add(found, name, value)
    return found


def _is_bytes(value: Any) -> bool:
    return isinstance(value, bytes | bytearray | memoryview)


def _is_tensor(value: Any) -> bool:
    """Whether it is an array, or a tensor of Paddle or of another library that converts to one."""
    return isinstance(value, np.ndarray) or callable(getattr(value, "numpy", None))


def _add(found: Values, name: str, value: Any) -> None:
    if _is_tensor(value):
        found.tensors.append(tensor(name, value if isinstance(value, np.ndarray) else value.numpy()))
        return
    try:
        data, content_type = body(value)
    except (TypeError, ValueError) as error:
        raise HandlerFailed(f'output "{shown(name)}" cannot be passed on: {described(error)}') from None
    found.parts.append(Part(name, content_type, data))
