"""What other processes do for this dialect: they read large forms, by the function that reads small ones."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from pdserver.dialects.base import Body
from pdserver.dialects.beside import handed_over
from pdserver.dialects.codec import Work
from pdserver.dialects.torchserve.body import read_body
from pdserver.memory_file import MemoryFile
from pdserver.types import Request


class Form(msgspec.Struct, frozen=True, array_like=True):
    """A body of this content type has the inputs of the request, which has none yet; it is `data`, or the one file."""

    request: Request
    content_type: str
    data: bytes


def _read(given: Form, files: Sequence[MemoryFile]) -> tuple[Request, list[MemoryFile]]:
    body = Body(given.data, files[0] if files else None)
    inputs = read_body(given.content_type, body)
    return handed_over(msgspec.structs.replace(given.request, inputs=inputs), body.kept)


READ = Work(_read, Form, Request)
WORKS = (READ,)
