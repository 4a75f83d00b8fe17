"""Where in a request its image is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pdserver.errors import InvalidRequest
from pdserver.handlers.base64_text import from_base64
from pdserver.handlers.npy import NPY_MAGIC, load_npy
from pdserver.handlers.parts import opened
from pdserver.values import listed

_BEGINNING_BYTES = 64
"""That tell an image file from text."""
_MOST_NESTED = 3
"""Objects around an image, such as {"body": {"image": {"b64": …}}}."""


def find(row: Any, input_name: str) -> Any:
    """An image file's bytes; or an array or nested lists, which are for the model's input `input_name` as they are.

    `row` is a request's parts by name, or, out of an envelope, any JSON value. Raises InvalidRequest when there is
    nothing, or more than can be told apart.
    """
    value = row
    for _ in range(_MOST_NESTED):
        value = opened(value)
        if not isinstance(value, dict):
            break
        value = _only(value, input_name)
    if isinstance(value, str):
        return _from_base64(value)
    if not isinstance(value, bytes | bytearray):
        return value
    return load_npy(value) if value.startswith(NPY_MAGIC) else _from_text(value)


def several(value: Any, input_name: str) -> list[bytes | bytearray] | None:
    """The images in a JSON list of base64, when what `find` gives is one. Raises InvalidRequest for anything else
    among them."""
    if type(value) is not list or not value or not isinstance(value[0], str | dict):
        return None
    images = [find(item, input_name) for item in value]
    for at, image in enumerate(images):
        if not isinstance(image, bytes | bytearray):
            raise InvalidRequest(f"expected a list of images as base64, got something else at [{at}]")
    return images


def agree(some: Sequence[int], others: Sequence[int]) -> bool:
    """Whether two shapes, of equal rank, are the same but for lengths of -1."""
    return all(-1 in pair or pair[0] == pair[1] for pair in zip(some, others, strict=True))


def _only(row: dict[str, Any], input_name: str) -> Any:
    names = [name for name in ("data", "body", "b64", input_name) if name in row]
    if not names and len(row) != 1:
        raise InvalidRequest(f'expected an image as the body or as a part called "data", got {listed(row)}')
    return row[names[0]] if names else next(iter(row.values()))


def _from_text(data: bytes | bytearray) -> bytes | bytearray:
    """The image whose base64 a form's field is; what is none, as it is."""
    beginning = data[:_BEGINNING_BYTES]
    if not beginning.isascii():
        return data
    try:
        return from_base64(data.decode("ascii"))
    except (InvalidRequest, UnicodeDecodeError):
        return data


def _from_base64(text: str) -> bytes:
    try:
        return from_base64(text)
    except InvalidRequest as error:
        raise InvalidRequest(f"expected an image; the text is not base64 of one: {error}") from None
