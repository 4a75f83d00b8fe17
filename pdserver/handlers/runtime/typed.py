"""Typed requests: tensors in, tensors out, for whatever handler a model has.

A handler that has `interface` and `handle_tensors` is given the tensors, the rows of all requests of equal shapes in
one call. To any other, each element of the tensor `body` is one opaque request, and its answer an element of `answer`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate
from typing import Any, Protocol

import msgspec
import numpy as np

from pdserver.configuration.model import ModelSpec
from pdserver.dtypes import BFLOAT16, BYTES
from pdserver.errors import HandlerFailed, InvalidRequest, LoadFailed
from pdserver.formats.elements import packed
from pdserver.formats.values import shown
from pdserver.handlers.context import Context
from pdserver.handlers.runtime import padding, shapes, together
from pdserver.handlers.runtime.answers import counted, outcome, refusal, text
from pdserver.handlers.runtime.classes import classified
from pdserver.handlers.runtime.isolation import Isolation, SendPiece
from pdserver.handlers.runtime.loader import EntryPoint
from pdserver.handlers.runtime.padding import Padding
from pdserver.handlers.runtime.rows import Array, Arrays
from pdserver.tensors import array, tensor
from pdserver.types import Failure, Interface, NodeRun, Outcome, Output, Part, Port, Reply, Request, Tensor

_STEPS = ("preprocess", "postprocess", "handle")
OPAQUE = Interface([Port("body", BYTES, (-1, 1))], [Port("answer", BYTES, (-1, 1))], batched=True, opaque=True)
"""The interface of a handler that takes no tensors."""


class TensorHandler(Protocol):
    """A handler that takes tensors."""

    def interface(self) -> Interface:
        """Its inputs and outputs, once it is initialised."""

    def handle_tensors(self, inputs: Arrays) -> Arrays:
        """The outputs of some rows. Elements of dtype "bytes" are objects, in and out. Raises InvalidRequest
        for rows that it does not take."""


class Times(msgspec.Struct):
    """Of one batch."""

    input_seconds: float = 0.0
    output_seconds: float = 0.0
    executions: int = 0
    nodes: list[NodeRun] = []
    """Of a fused graph."""


class Typed:
    """Raises LoadFailed for a handler's interface that is not valid, ConfigError for a wrong section `padding`."""

    def __init__(self, entry: EntryPoint, context: Context, spec: ModelSpec, isolation: Isolation) -> None:
        self._entry = entry
        self._context = context
        self._isolation = isolation
        self._handler = tensor_handler(entry.instance)
        self.interface = _checked(self._handler.interface()) if self._handler else OPAQUE
        self._ports = {port.name: port for port in self.interface.outputs}
        self._bfloat16 = {port.name for port in self.interface.outputs if port.dtype == BFLOAT16}
        of_model = getattr(getattr(entry.instance, "batching", None), "padding", None)
        self._model_padding = of_model if isinstance(of_model, Padding) else None
        """Of the model that the handler runs; `_padding` is that of what it takes."""
        self._padding = padding.of_handler(spec.model_config, self.interface, self._model_padding)
        self._joins = self._handler is not None and self.interface.batched and self._padding is None
        """Whether the rows of requests of equal shapes, as they are, make one input of the model."""

    def prepare(self) -> None:
        """Run all shapes that the section `padding` makes. Raises what `shapes.prepare` raises."""
        sizes = shapes.batch_sizes(self._context)
        if self._model_padding is not None:
            shapes.prepare(self._entry.instance.predictor.run, self._model_padding, sizes)
        elif self._padding is not None and self._handler is not None:
            shapes.prepare(self._handler.handle_tensors, self._padding, sizes)

    def run(self, requests: list[Request], send_piece: SendPiece | None, times: Times) -> list[Outcome]:
        """One outcome for each request. Never raises for anything a handler does."""
        started = time.perf_counter()
        if self._joins and (joined := together.joined(requests)) is not None:
            times.input_seconds += time.perf_counter() - started
            return self._attempt(partial(self._run_tensors, requests, *joined, times), requests, send_piece, times)
        outcomes: dict[int, Outcome] = {}
        inputs: dict[int, Arrays] = {}
        for position, request in enumerate(requests):
            try:
                inputs[position] = {given.name: _values(given) for given in request.inputs}
            except InvalidRequest as error:
                outcomes[position] = Failure.of(error)
        times.input_seconds += time.perf_counter() - started
        run = self._run_opaque if self._handler is None else self._run_arrays
        for group in self._groups(inputs):
            alike = [requests[position] for position in group]
            attempt = partial(run, alike, [inputs[position] for position in group], times)
            answered = self._attempt(attempt, alike, of_some(send_piece, group), times)
            outcomes.update(zip(group, answered, strict=True))
        return [outcomes[position] for position in range(len(requests))]

    def _groups(self, inputs: dict[int, Arrays]) -> list[list[int]]:
        """The positions of requests that can share a run of the model."""
        if not self.interface.batched:
            return [[position] for position in inputs]
        groups: dict[Any, list[int]] = {}
        pad = self._padding
        for position, arrays in inputs.items():
            key = pad.bucket(arrays) if pad else tuple((given.shape[1:], given.dtype.str) for given in arrays.values())
            groups.setdefault(key, []).append(position)
        return list(groups.values())

    def _attempt(
        self, run: Callable[[], list[Outcome]], requests: list[Request], send_piece: SendPiece | None, times: Times
    ) -> list[Outcome]:
        """The outcomes that `run` gives. If it fails, each request runs by itself."""
        self._context.begin(requests, partial(self._send, requests, send_piece) if send_piece else None)
        self._isolation.attempt()
        try:
            return run()
        except BaseException as error:  # noqa: BLE001 - a handler may even call sys.exit()
            # The inputs are read again, since the handler may have changed the arrays.
            return self._isolation.outcomes(
                error, len(requests), lambda i: self.run([requests[i]], of_some(send_piece, [i]), times)[0]
            )

    def _run_arrays(self, requests: list[Request], inputs: list[Arrays], times: Times) -> list[Outcome]:
        """`_run_tensors`, for arrays of each request."""
        started = time.perf_counter()
        pad = self._padding
        padded = pad.together(inputs) if pad else inputs
        whole = (
            padded[0] if len(padded) == 1 else {name: np.concatenate([p[name] for p in padded]) for name in padded[0]}
        )
        rows = [len(next(iter(given.values()))) for given in inputs] if self.interface.batched else []
        times.input_seconds += time.perf_counter() - started
        cut_back = (lambda own: list(map(pad.cut, own, inputs, padded))) if pad else None
        return self._run_tensors(requests, whole, rows, times, cut_back)

    def _run_tensors(
        self,
        requests: list[Request],
        inputs: Arrays,
        rows: list[int],
        times: Times,
        cut_back: Callable[[list[Arrays]], list[Arrays]] | None = None,
    ) -> list[Outcome]:
        """`inputs` has so many `rows` of each request. `cut_back` undoes in their outputs what was done to inputs."""
        assert self._handler is not None  # noqa: S101
        times.executions += 1
        outputs = self._handler.handle_tensors(inputs)
        started = time.perf_counter()
        outcomes = together.cut(outputs, requests, rows, self._bfloat16) if self._joins else None
        if outcomes is None:
            own = _split(outputs, rows) if self.interface.batched else [outputs]
            own = cut_back(own) if cut_back else own
            outcomes = list(map(self._reply, requests, own))
        times.output_seconds += time.perf_counter() - started
        return outcomes

    def _run_opaque(self, requests: list[Request], inputs: list[Arrays], times: Times) -> list[Outcome]:
        rows: list[dict[str, Any]] = []
        owners: list[int] = []
        for position, arrays in enumerate(inputs):
            for body in arrays["body"].ravel().tolist():
                rows.append({"body": bytearray(body)})
                owners.append(position)
        times.executions += 1
        context = self._context
        outcomes: list[Outcome] = []
        with context.opened(owners):
            answers = counted(self._entry.handle(rows, context), len(rows))
            parts = [
                outcome(answer, context.heads.get(idx), context.get_request_id(idx))
                for idx, answer in enumerate(answers)
            ]
        for position, request in enumerate(requests):
            own = [part for part, owner in zip(parts, owners, strict=True) if owner == position]
            outcomes.append(_joined(request, own))
        return outcomes

    def _reply(self, request: Request, outputs: Arrays) -> Outcome:
        """The outputs that the request asks for."""
        try:
            wanted = together.wanted(request.outputs, outputs)
            return Reply(b"", "", tensors=[self._tensor(output, outputs) for output in wanted])
        except (HandlerFailed, InvalidRequest) as error:
            return Failure.of(error)

    def _tensor(self, wanted: Output, outputs: Arrays) -> Tensor:
        name = wanted.name
        if name not in outputs:
            raise HandlerFailed(f'the handler gave no output "{name}"; it gave {", ".join(outputs)}')
        if wanted.classes:
            labels = self._ports[name].labels if name in self._ports else {}
            return classified(wanted, outputs[name], labels, batched=self.interface.batched)
        return tensor(name, outputs[name], BFLOAT16 if name in self._bfloat16 else None)

    def _send(self, requests: list[Request], send_piece: SendPiece, idx: int, answer: Any) -> None:
        """Send a piece of a streamed answer: outputs by name, or what an opaque handler answers."""
        if self._handler is None:
            piece = _joined(requests[idx], [outcome(answer, None)])
        else:
            piece = self._reply(requests[idx], {name: np.asarray(values) for name, values in answer.items()})
        if isinstance(piece, Failure):
            raise HandlerFailed(piece.message)
        self._isolation.sent()
        send_piece(idx, piece)


def _checked(interface: Any) -> Interface:
    """The interface as the server will read it. Raises LoadFailed for one that it can't read."""
    try:
        return msgspec.msgpack.decode(msgspec.msgpack.encode(interface), type=Interface)
    except Exception as error:  # noqa: BLE001 - an object of the handler's may raise anything
        raise LoadFailed(f"the handler's interface is not valid: {text(error)}") from None


def of_some(send_piece: SendPiece | None, positions: list[int]) -> SendPiece | None:
    """`send_piece` for a caller that knows only the requests at these positions, counted from 0."""
    return None if send_piece is None else lambda idx, piece: send_piece(positions[idx], piece)


def tensor_handler(instance: Any) -> TensorHandler | None:
    """The handler itself if it takes tensors, else None.

    It takes none if it overrides a step for opaque requests of a class that takes tensors: nobody knows what that step
    would do with tensors.
    """
    owner = next((kind for kind in type(instance).__mro__ if "handle_tensors" in vars(kind)), None)
    if owner is None or any(getattr(type(instance), step, None) is not getattr(owner, step, None) for step in _STEPS):
        return None
    handler: TensorHandler = instance
    return handler


def _values(given: Part | Tensor) -> Array:
    if isinstance(given, Tensor):
        return array(given)
    raise InvalidRequest(f'"{shown(given.name)}" is not a tensor')


def _split(outputs: Arrays, rows: list[int]) -> list[Arrays]:
    """The outputs for each request, which gave so many rows. Raises HandlerFailed for outputs of other lengths."""
    for name, values in outputs.items():
        if not values.ndim:
            raise HandlerFailed(f'output "{name}" is a single value: the first axis of every output must be the batch')
    *starts, total = accumulate(rows, initial=0)
    if any(len(values) != total for values in outputs.values()):
        shapes = ", ".join(f"{name} {list(values.shape)}" for name, values in outputs.items())
        raise HandlerFailed(f"expected {total} rows of each output; the model's outputs are {shapes}")
    return [
        {name: _rows(name, values[start : start + count]) for name, values in outputs.items()}
        for start, count in zip(starts, rows, strict=True)
    ]


def _rows(name: str, rows: Array) -> Array:
    """The rows of one request as an array of their own dtype."""
    if rows.dtype.hasobject and rows.size and isinstance(rows.flat[0], np.ndarray):
        try:
            return np.stack(list(rows))
        except ValueError:
            raise HandlerFailed(f'output "{name}": the rows of one request differ in shape') from None
    return rows


def _joined(request: Request, parts: Sequence[Outcome]) -> Outcome:
    """The answers to a request's elements as one tensor, or the failure of one, which may be by its status alone."""
    bodies: list[bytes] = []
    for part in parts:
        if isinstance(part, Failure):
            return part
        if part.status >= 400:
            return refusal(part)
        bodies.append(bytes(part.body))
    return Reply(b"", "", tensors=[Tensor("answer", BYTES, (len(bodies), 1), packed(bodies))])
