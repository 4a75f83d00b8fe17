"""Values → the request to a node; its worker's answer → values. For the engine, and for fused graphs in workers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

import msgspec

from pdarchiver.pipeline.graph import ANY, Type
from pdserver.configuration.model import ModelSpec
from pdserver.dtypes import BYTES
from pdserver.errors import HandlerFailed, InvalidRequest, Kind
from pdserver.formats import strict_json
from pdserver.formats.elements import packed
from pdserver.formats.values import listed, nearest, shown
from pdserver.pipeline import declared
from pdserver.pipeline.files import files_of, item, stacked
from pdserver.pipeline.values import BINARY, JSON, Item, Parts, Value, Values, check_size, json_item, numbers
from pdserver.tensors import tensor
from pdserver.types import Interface, Output, Part, Port, RelayedRequest, Reply, Request, Tensor
from pdserver.types import Values as AnsweredValues


class Question(NamedTuple):
    """What a node is asked."""

    request: RelayedRequest
    kept: Sequence[Any]
    """What keeps the request's files open."""
    values: Callable[[Reply], dict[str, Value]]
    """Of the answer. Raises HandlerFailed for one that makes none."""


def to_code(inputs: Values, spec: ModelSpec, asker: Request, outputs: Mapping[str, Type]) -> Question:
    """For code in Python, or for a fused graph: both are asked by values. `asker` is the pipeline's request; `outputs`
    are what the node is said to give, empty where nobody says that."""
    items, lists = flattened(inputs)
    given, fds = files_of(items)
    request = RelayedRequest(
        spec.name, spec.version, asker.id, given, asker.headers, asker.path, "predict", fds, "", False, (),
        asker.parameters, 1, 0.0, asker.priority, None, lists,
    )  # fmt: skip
    return Question(request, items, partial(_values, outputs=outputs))


def to_model(
    inputs: Values, spec: ModelSpec, asker: Request, interface: Interface, outputs: tuple[Output, ...]
) -> Question:
    """For a model that takes tensors. Raises InvalidRequest for what does not fit it."""
    items, added = _tensors(inputs, interface)
    given, fds = files_of(items)
    rows = 1
    if interface.batched:
        first = given[0] if given else None
        rows = min(first.shape[0], spec.batch_size) if isinstance(first, Tensor) else 1
    request = RelayedRequest(
        spec.name, spec.version, asker.id, given, asker.headers, "", "predict", fds, "", True, outputs, {}, rows, 0.0,
        asker.priority,
    )  # fmt: skip
    return Question(request, items, _without_axis if added else _as_they_are)


def to_parts(inputs: Values, spec: ModelSpec, asker: Request, gives: Type = ANY) -> Question:
    """For a model that is asked as by a plain HTTP request; `gives` is what its answer is taken for: "bytes" leaves its
    content type out, "json" makes it JSON if it can be read as such. Raises InvalidRequest for lists."""
    items: list[Item] = []
    for name, value in inputs.items():
        if isinstance(value, Parts):
            items += value
        elif isinstance(value, list):
            raise InvalidRequest(f'input "{name}" is a list: a model that is asked by parts takes one item (each)')
        else:
            items.append(_named(name, value))
    given, fds = files_of(items)
    request = RelayedRequest(
        spec.name, spec.version, asker.id, given, asker.headers, "", "predict", fds, "", False, (), asker.parameters, 1,
        0.0, asker.priority,
    )  # fmt: skip
    return Question(request, items, partial(_body, gives=gives))


def flattened(values: Values) -> tuple[list[Item], dict[str, int]]:
    """The items by their values' names, and of how many each list is made."""
    items: list[Item] = []
    lists: dict[str, int] = {}
    for name, value in values.items():
        if isinstance(value, list):
            lists[name] = len(value)
            items += [_named(name, each) for each in value]
        else:
            items.append(_named(name, value))
    return items, lists


def grouped(given: Iterable[Part | Tensor], lists: Iterable[str]) -> dict[str, Value]:
    """The values that `flattened` made the items of."""
    found: dict[str, Value] = {name: [] for name in lists}
    for each in given:
        held = found.get(each.name)
        if isinstance(held, list):
            held.append(item(each))
        else:
            found[each.name] = item(each)
    return found


def _values(reply: Reply, outputs: Mapping[str, Type]) -> dict[str, Value]:
    if not isinstance(reply, AnsweredValues):
        raise HandlerFailed("its worker gave no values")
    found = grouped(chain[Part | Tensor](reply.tensors, reply.parts), reply.lists)
    # It may leave an output out, and answer more than anybody takes. Both together are a slip.
    missing = [name for name in outputs if name not in found]
    unknown = next((name for name in found if name not in outputs), None) if missing else None
    if unknown is not None:
        raise HandlerFailed(
            f'it answered "{shown(unknown)}", which is none of its outputs, and not "{missing[0]}"'
            f"{nearest(unknown, missing)}"
        )
    for name, value in found.items():
        kind = outputs.get(name, ANY)
        if isinstance(value, list) and not value and kind.kind == "json":
            found[name] = json_item([])  # what a list of anything in JSON is when it has items
        else:
            declared.check(name, value, kind)
    return found


def _named(name: str, one: Item) -> Item:
    given = one.given
    return one if given.name == name else one._replace(given=msgspec.structs.replace(given, name=name))


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


def _body(reply: Reply, gives: Type) -> dict[str, Value]:
    if reply.status >= 400:
        kind = Kind.INVALID if reply.status < 500 else Kind.HANDLER
        raise HandlerFailed(bytes(reply.body).decode(errors="replace") or reply.reason, kind, reply.status)
    place: dict[str, Any] = {"start": reply.start, "size": reply.size} if reply.size else {}
    found = item(Part("body", reply.content_type, reply.body, **place))
    content_type = BINARY if gives.kind == "bytes" else JSON if gives.kind == "json" and _is_json(found) else ""
    if content_type:
        found = found._replace(given=msgspec.structs.replace(found.given, content_type=content_type))
    return {"body": found}


def _is_json(found: Item) -> bool:
    try:
        strict_json.loads(bytes(found.data))
    except strict_json.InvalidJson:
        return False
    return True


def _tensors(inputs: Values, interface: Interface) -> tuple[list[Item], bool]:
    """The model's inputs, and whether all of them got the axis of the batch, which an item does not have.

    Raises InvalidRequest for what does not fit the model.
    """
    found: list[Item] = []
    added = 0
    for port in interface.inputs:
        value = inputs.get(port.name)
        if value is None and port.optional:
            continue
        if value is None:
            raise InvalidRequest(f'the model\'s input "{port.name}" is missing')
        one = _as_tensor(port, Item(stacked(port.name, value)) if isinstance(value, list) else value)
        given = one.given
        assert isinstance(given, Tensor)  # noqa: S101
        if given.dtype != port.dtype:
            raise InvalidRequest(f'the model\'s input "{port.name}" is {port.dtype}, and this is {given.dtype}')
        shape = given.shape
        if interface.batched and len(shape) == len(port.shape) - 1 and not port.any_rank:
            shape = (1, *shape)
            added += 1
        if not port.any_rank and (
            len(shape) != len(port.shape)
            or any(wanted not in (-1, length) for wanted, length in zip(port.shape, shape, strict=True))
        ):
            raise InvalidRequest(
                f'the model\'s input "{port.name}" has shape {list(port.shape)}, and this has {list(given.shape)}'
            )
        found.append(one._replace(given=msgspec.structs.replace(given, name=port.name, shape=shape)))
    if len(inputs) > len(found):
        ports = [port.name for port in interface.inputs]
        unknown = next(name for name in inputs if name not in ports)
        raise InvalidRequest(f'the model has no input "{unknown}"; it has {listed(ports)}{nearest(unknown, ports)}')
    return found, 0 < added == len(found)


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
        check_size(value.data)
        array = numbers(strict_json.loads(value.data), port.dtype)
    except (strict_json.InvalidJson, ValueError, TypeError, OverflowError) as error:
        raise InvalidRequest(f'the model\'s input "{port.name}": this JSON is no {port.dtype}: {error}') from None
    return Item(tensor(port.name, array, port.dtype))
