"""Whether what a node gave is what its pipeline.yaml says that it gives."""

from __future__ import annotations

import msgspec

from pdarchiver.pipeline.graph import ANY, Type
from pdserver.errors import HandlerFailed
from pdserver.formats.values import shown
from pdserver.pipeline.values import Item, Value, is_json
from pdserver.types import Tensor

_texts = msgspec.json.Decoder(list[str]).decode
_HINTS = {
    "tensor": "answer a numpy array, such as np.asarray(value, 'float32')",
    "bytes": "answer bytes",
    "text": "answer a str",
    "json": "answer what JSON has, such as an array's .tolist(), or declare what came",
    "list": "answer a list of arrays or of bytes; what else is in a list is JSON",
}
"""By the kind that was declared: what a step answers for it."""


def check(name: str, value: Value, declared: Type) -> None:
    """`name` is the output's. Raises HandlerFailed for a value of another kind, dtype or shape than `declared`."""
    if declared.kind == "any" or _is(value, declared):
        return
    place, wanted, came = "", declared, value
    if isinstance(value, list) and declared.kind == "list":
        wanted = declared.item or ANY
        index, came = next((index, item) for index, item in enumerate(value) if not _is(item, wanted))
        place = f", item {index}"
    found = _type_of(came)
    hint = "" if found.kind == wanted.kind else f": {_HINTS[wanted.kind]}"
    raise HandlerFailed(f'output "{shown(name)}"{place}: declared {wanted}, and {found} came{hint}')


def _is(value: Value, declared: Type) -> bool:
    kind = declared.kind
    if kind == "any":
        return True
    if isinstance(value, list):
        item = declared.item or ANY
        return all(_is(each, item) for each in value) if kind == "list" else kind == "json" and not value
    given = value.given
    if isinstance(given, Tensor):
        return kind == "tensor" and declared.dtype in ("", given.dtype) and _has_shape(given, declared.shape)
    found = _kind(given.content_type)
    if kind == "list":
        return found == "json" and _is_list(value, (declared.item or ANY).kind)
    return kind == found or (kind == "json" and found == "text")  # which JSON has as well


def _has_shape(given: Tensor, shape: tuple[int, ...] | None) -> bool:
    if shape is None:
        return True
    lengths = given.shape
    return len(lengths) == len(shape) and all(want in (-1, length) for want, length in zip(shape, lengths, strict=True))


def _is_list(value: Item, items: str) -> bool:
    """Whether JSON is an array whose items may be of that kind."""
    data = value.data
    if items != "text":
        return items in ("any", "json") and data[:1] == b"["
    try:
        _texts(data)
    except msgspec.DecodeError:
        return False
    return True


def _kind(content_type: str) -> str:
    return "json" if is_json(content_type) else "text" if content_type.startswith("text/") else "bytes"


def _type_of(value: Value) -> Type:
    if isinstance(value, list):
        kinds = {_type_of(item) for item in value}
        return Type("list", item=kinds.pop() if len(kinds) == 1 else None)
    given = value.given
    if isinstance(given, Tensor):
        return Type("tensor", given.dtype, tuple(given.shape))
    kind = _kind(given.content_type)
    return Type("json") if kind == "json" else Type("text") if kind == "text" else Type("bytes")
