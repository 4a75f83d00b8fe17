"""A pipeline's nodes as the engine asks them: each work becomes a call to whoever serves the node."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec
import numpy as np

from pdarchiver.pipeline.graph import FAILURES, POSITIONS, ModelBody
from pdserver.dtypes import BFLOAT16, BYTES
from pdserver.engine.pipeline.answers import stacked
from pdserver.engine.pipeline.trace import Trace
from pdserver.engine.queue import Call
from pdserver.engine.served import Served
from pdserver.errors import HandlerFailed, InvalidRequest, Kind, PdError, Unavailable
from pdserver.formats import strict_json
from pdserver.formats.elements import packed
from pdserver.formats.values import listed, nearest
from pdserver.pipeline.files import files_of, item
from pdserver.pipeline.run import Work
from pdserver.pipeline.values import JSON, Item, Value
from pdserver.tensors import tensor
from pdserver.types import Failure, Interface, NodeRequest, Outcome, Output, Part, Port, Reply, Request, Tensor, Values

_NESTED_MOST = 8
"""How deep pipelines may ask pipelines: models of the store can be replaced by what asks them in turn."""


class Asker(Protocol):
    """What a node's request takes over from the pipeline's."""

    request: Request
    depth: int
    """How many pipelines have asked one another."""
    trace: Trace | None
    """Takes the spans of nodes; None: nobody wants them."""


class Target(Protocol):
    """Who runs a node."""

    def ask(self, work: Work, asker: Asker) -> None:
        """Have the work done; `work.settle` gets what comes of it. Raises PdError when it is refused."""


class NodeCall(Call):
    """A node's request on its way. It was accepted with the pipeline's, so no queue is too full for it."""

    accepted = True
    entrypoint = "PIPELINE"

    def __init__(
        self,
        work: Work,
        request: Request,
        kept: Sequence[Any],
        asker: Asker,
        values: Callable[[Reply], dict[str, Value]],
    ) -> None:
        super().__init__(request, time.monotonic(), kept)
        self.depth = asker.depth + 1
        self._trace = asker.trace
        self._work = work
        self._values_of = values
        work.on_cancel = self.cancel

    def chunk(self, piece: Reply) -> None:
        """A node answers as a whole: of a handler that streams, only what it returns in the end counts."""

    def settle(self, outcome: Outcome) -> None:
        if self._trace is not None and not self._work.over:
            error = outcome.message if isinstance(outcome, Failure) else ""
            model = f"{self.request.model}/{self.request.version}"
            self._trace.node(self._work.path, model, self.arrived, self.taken, time.monotonic(), error)
        if isinstance(outcome, Failure):
            self._work.settle(outcome)
            return
        try:
            values = self._values_of(outcome)
        except PdError as error:
            self._work.settle(Failure.of(error))
            return
        self._work.settle(values)


class CodeTarget:
    """Code in Python, or a graph whose nodes run in one process: workers that are asked by values."""

    def __init__(self, served: Served) -> None:
        self._served = served

    def ask(self, work: Work, asker: Asker) -> None:
        items: list[Item] = []
        lists: dict[str, int] = {}
        for name, value in work.inputs.items():
            if isinstance(value, list):
                lists[name] = len(value)
                items += [each._replace(given=_named(name, each.given)) for each in value]
            else:
                items.append(value._replace(given=_named(name, value.given)))
        inputs, fds = files_of(items)
        spec, request = self._served.spec, asker.request
        own = NodeRequest(
            spec.name, spec.version, request.id, inputs, request.headers, request.path, "predict", fds, "", False, (),
            request.parameters, 1, 0.0, request.priority, None, lists,
        )  # fmt: skip
        self._served.submit(NodeCall(work, own, items, asker, _values_of))


def _named(name: str, given: Part | Tensor) -> Part | Tensor:
    return given if given.name == name else msgspec.structs.replace(given, name=name)


def _values_of(reply: Reply) -> dict[str, Value]:
    """The outputs of a node that is asked by values."""
    if not isinstance(reply, Values):
        raise HandlerFailed("its worker gave no values")
    found: dict[str, Value] = {name: [] for name in reply.lists}
    given: Part | Tensor
    for given in itertools.chain[Part | Tensor](reply.tensors, reply.parts):
        held = found.get(given.name)
        if isinstance(held, list):
            held.append(item(given))
        else:
            found[given.name] = item(given)
    return found


class ModelTarget:
    """A model that is asked by tensors. `wanted` are the outputs that the pipeline needs; empty: all."""

    def __init__(self, find: Callable[[], Served], wanted: tuple[str, ...]) -> None:
        self._find = find
        self._outputs = tuple(Output(name) for name in wanted if name not in (FAILURES, POSITIONS))

    def ask(self, work: Work, asker: Asker) -> None:
        if asker.depth >= _NESTED_MOST:
            raise InvalidRequest(f"{_NESTED_MOST} pipelines ask one another: one of them asks for itself")
        served = self._find()
        interface = served.interface
        spec, request = served.spec, asker.request
        if interface is None:
            raise Unavailable(f"model {spec.ref} is not loaded yet: try again in a moment")
        items, added = _tensors(work, interface)
        inputs, fds = files_of(items)
        rows = 1
        if interface.batched:
            first = inputs[0]
            rows = min(first.shape[0], spec.batch_size) if isinstance(first, Tensor) else 1
        own = NodeRequest(
            spec.name, spec.version, request.id, inputs, request.headers, "", "predict", fds, "", True, self._outputs,
            {}, rows, 0.0, request.priority,
        )  # fmt: skip
        served.submit(NodeCall(work, own, items, asker, _without_axis if added else _as_they_are))


def _as_they_are(reply: Reply) -> dict[str, Value]:
    return {given.name: item(given) for given in reply.tensors}


def _without_axis(reply: Reply) -> dict[str, Value]:
    found: dict[str, Value] = {}
    for given in reply.tensors:
        one = item(given)
        shape = given.shape
        if shape[:1] != (1,):
            raise HandlerFailed(f'the model\'s output "{given.name}" has shape {list(shape)} for one row')
        found[given.name] = one._replace(given=msgspec.structs.replace(one.given, shape=shape[1:]))
    return found


def _tensors(work: Work, interface: Interface) -> tuple[list[Item], bool]:
    """The model's inputs, and whether all of them got the axis of the batch, which an item does not have.

    Raises InvalidRequest for what does not fit the model.
    """
    found: list[Item] = []
    added = 0
    for port in interface.inputs:
        value = work.inputs.get(port.name)
        if value is None:
            raise InvalidRequest(f'the model\'s input "{port.name}" is missing')
        one = _as_tensor(port, stacked(port.name, value) if isinstance(value, list) else value)
        given = one.given
        assert isinstance(given, Tensor)  # noqa: S101
        if given.dtype != port.dtype:
            raise InvalidRequest(f'the model\'s input "{port.name}" is {port.dtype}, and this is {given.dtype}')
        shape = given.shape
        if interface.batched and len(shape) == len(port.shape) - 1:
            shape = (1, *shape)
            added += 1
        if len(shape) != len(port.shape) or any(
            wanted not in (-1, length) for wanted, length in zip(port.shape, shape, strict=True)
        ):
            raise InvalidRequest(
                f'the model\'s input "{port.name}" has shape {list(port.shape)}, and this has {list(given.shape)}'
            )
        found.append(one._replace(given=msgspec.structs.replace(given, name=port.name, shape=shape)))
    if len(work.inputs) > len(interface.inputs):
        ports = [port.name for port in interface.inputs]
        unknown = next(name for name in work.inputs if name not in ports)
        raise InvalidRequest(f'the model has no input "{unknown}"; it has {listed(ports)}{nearest(unknown, ports)}')
    return found, added == len(interface.inputs)


def _as_tensor(port: Port, value: Item) -> Item:
    """An opaque value as an element of a tensor of bytes; JSON as numbers, for an input of numbers."""
    given = value.given
    if isinstance(given, Tensor):
        return value
    if port.dtype == BYTES:
        return Item(Tensor(port.name, BYTES, (1,) * len(port.shape), packed([value.data])))
    if given.content_type != JSON:
        raise InvalidRequest(f'the model\'s input "{port.name}" is {port.dtype}, and this is {given.content_type}')
    try:
        array = np.asarray(strict_json.loads(value.data), np.float32 if port.dtype == BFLOAT16 else port.dtype)
    except (strict_json.InvalidJson, ValueError, TypeError, OverflowError) as error:
        raise InvalidRequest(f'the model\'s input "{port.name}": this JSON is no {port.dtype}: {error}') from None
    return Item(tensor(port.name, array, port.dtype))


class OpaqueTarget:
    """A model that is asked as by a plain HTTP request. Its answer is the output `body`."""

    def __init__(self, find: Callable[[], Served]) -> None:
        self._find = find

    def ask(self, work: Work, asker: Asker) -> None:
        if asker.depth >= _NESTED_MOST:
            raise InvalidRequest(f"{_NESTED_MOST} pipelines ask one another: one of them asks for itself")
        served = self._find()
        items: list[Item] = []
        for name, value in work.inputs.items():
            if isinstance(value, list):
                raise InvalidRequest(f'input "{name}" is a list: a model that is asked by parts takes one item (each)')
            items.append(value._replace(given=_named(name, value.given)))
        inputs, fds = files_of(items)
        spec, request = served.spec, asker.request
        own = NodeRequest(
            spec.name, spec.version, request.id, inputs, request.headers, "", "predict", fds, "", False, (),
            request.parameters, 1, 0.0, request.priority,
        )  # fmt: skip
        served.submit(NodeCall(work, own, items, asker, _body))


def _body(reply: Reply) -> dict[str, Value]:
    if reply.status >= 400:
        kind = Kind.INVALID if reply.status < 500 else Kind.HANDLER
        raise HandlerFailed(bytes(reply.body).decode(errors="replace") or reply.reason, kind, reply.status)
    place: dict[str, Any] = {"start": reply.start, "size": reply.size} if reply.size else {}
    return {"body": item(Part("body", reply.content_type, reply.body, **place))}


def target(body: ModelBody, find: Callable[[], Served], wanted: tuple[str, ...]) -> Target:
    return OpaqueTarget(find) if body.opaque else ModelTarget(find, wanted)
