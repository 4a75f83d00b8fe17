"""Finds the image or the images in a request."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pdserver.errors import InvalidRequest
from pdserver.formats.values import listed, shown
from pdserver.handlers.runtime.base64_text import from_base64
from pdserver.handlers.runtime.npy import NPY_MAGIC, load_npy
from pdserver.handlers.runtime.parts import opened
from pdserver.handlers.vision.images import EXPECTED, is_image
from pdserver.types import Binary

_BEGINNING_BYTES = 64
"""The first bytes, which tell an image file from text."""
_MOST_NESTED = 3
"""The depth of objects around an image, such as {"body": {"image": {"b64": …}}}."""

T = TypeVar("T")


@dataclass(frozen=True)
class Several:
    """The images of one request, by a part's name or by the index in a list."""

    images: Mapping[str, Binary]

    def read(self, read: Callable[[Binary], T]) -> list[T]:
        """The results of `read` for each image. InvalidRequest says which image it is about."""
        found = []
        for where, image in self.images.items():
            try:
                found.append(read(image))
            except InvalidRequest as error:
                raise InvalidRequest(f"{where}: {error}") from None
        return found


def find(row: Any, input_name: str) -> Any:
    """An image file's bytes; Several of them; or an array or nested lists, which are for the model's input `input_name`
    as they are.

    `row` is a request's parts by name, or, out of an envelope, any JSON value. Raises InvalidRequest when there is
    nothing, or more than can be told apart.
    """
    value = _one(row, input_name)
    if type(value) is list and value and isinstance(value[0], str | dict):
        value = Several({f"[{at}]": item for at, item in enumerate(value)})
    if not isinstance(value, Several):
        return value
    images = dict(zip(value.images, value.read(lambda item: _one(item, input_name)), strict=True))
    for where, image in images.items():
        if not isinstance(image, Binary):
            raise InvalidRequest(f"expected a list of images, got something else at {where}")
    return Several(images)


def _one(row: Any, input_name: str) -> Any:
    """As `find`, but lists of images are left as they came."""
    value = row
    for _ in range(_MOST_NESTED):
        value = opened(value)
        if not isinstance(value, dict):
            break
        value = _only(value, input_name)
    if isinstance(value, str):
        return _from_base64(value)
    if not isinstance(value, Binary):
        return value
    return load_npy(value) if value.startswith(NPY_MAGIC) else _from_text(value)


def _only(row: dict[str, Any], input_name: str) -> Any:
    names = [name for name in ("data", "body", "b64", input_name) if name in row]
    if names or len(row) == 1:
        return row[names[0]] if names else next(iter(row.values()))
    if row and all(isinstance(value, Binary) for value in row.values()):
        return Several({shown(name): value for name, value in row.items()})
    raise InvalidRequest(f'expected an image as the body or as a part called "data", got {listed(row)}')


def _from_text(data: Binary) -> Binary:
    """The image if the data are base64 of one, as in a form's field, else the data."""
    beginning = data[:_BEGINNING_BYTES]
    if not beginning.isascii():
        return data
    try:
        image = from_base64(data.decode("ascii"))
    except (InvalidRequest, UnicodeDecodeError):
        return data
    return image if is_image(image) else data


def _from_base64(text: str) -> bytes:
    try:
        image = from_base64(text)
    except InvalidRequest as error:
        raise InvalidRequest(f"expected an image; the text is not base64 of one: {error}") from None
    if not is_image(image):
        raise InvalidRequest(
            f"{EXPECTED}, got text of {len(text)} characters, the base64 of {len(image)} bytes of something else"
        )
    return image
