"""What is in the body of a prediction: the parts of a form, or one input."""

from __future__ import annotations

import os

from pdserver.dialects.base import Body
from pdserver.dialects.torchserve.forms import is_form, parse_form
from pdserver.dialects.torchserve.multipart import parse_multipart
from pdserver.types import Part, Tensor

_MULTIPART = "multipart/form-data"
_URLENCODED = "application/x-www-form-urlencoded"


def may_be_form(content_type: str) -> bool:
    media = content_type[: len(_URLENCODED)].lower()
    return media == _URLENCODED or media.startswith(_MULTIPART)


def read_body(content_type: str, body: Body) -> list[Part | Tensor]:
    """The inputs, the one of a body that is no form named "body"; its file, if it has one, is added to `body.kept`.

    Raises InvalidRequest.
    """
    media = content_type[: len(_URLENCODED)].lower()
    if media.startswith(_MULTIPART):
        return [*parse_multipart(content_type, bytes(body.read()))]
    if media == _URLENCODED:
        data = bytes(body.read())
        if is_form(data):
            return [*parse_form(data)]
        content_type = ""
    if body.file is None:
        return [Part("body", content_type, body.data)]
    body.kept.append(body.file)
    return [Part("body", content_type, b"", 0, 0, os.fstat(body.file.fd).st_size)]
