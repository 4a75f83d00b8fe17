"""Work of the web services for codec processes: reading large requests, writing large answers.

Each function calls the one that the front end uses for what is small.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from pdserver.dialects.base import Body, Response
from pdserver.dialects.beside import handed_over, request_by, slim
from pdserver.dialects.codec import Codec, Work
from pdserver.dialects.paddle import pipeline
from pdserver.dialects.paddle.pipeline_message import given_in, parsed, write_message
from pdserver.dialects.paddle.web import read_body, response_of
from pdserver.dialects.paddle.web_request import Known, WebRequest
from pdserver.large_data import put_beside, put_in_place
from pdserver.memory_file import MemoryFile, view
from pdserver.types import Reply

_Files = Sequence[MemoryFile]


class _Posted(msgspec.Struct, frozen=True, array_like=True):
    """A body of HTTP: `data`, or the one file."""

    known: Known
    data: bytes
    either: bool


class _Answer(msgspec.Struct, frozen=True, array_like=True):
    """A reply, its large tensors in the one file (if there are any), and the request without its inputs."""

    request: WebRequest
    reply: Reply


async def read_elsewhere(
    codec: Codec, known: Known, body: Body, *, either: bool
) -> tuple[WebRequest, list[MemoryFile]]:
    """The request and its files. Raises what `read_body` and `codec.run` do."""
    given = _Posted(_slim(known), body.data, either)
    return await request_by(codec, _READ, given, body.files)


async def message_read_elsewhere(
    codec: Codec, known: Known, data: bytes | memoryview
) -> tuple[WebRequest, list[MemoryFile]]:
    """The request that a message of Pipeline's is, and its files. Raises InvalidRequest, and what `codec.run` does."""
    return await request_by(codec, _READ_MESSAGE, _slim(known), [await codec.filed([data])])


async def written_elsewhere(codec: Codec, request: WebRequest, reply: Reply) -> Response:
    """The answer over HTTP. Raises InvalidRequest for a reply that is broken, and what `codec.run` does."""
    response, files = await codec.run(_WRITE, *await _beside(codec, request, reply))
    return msgspec.structs.replace(response, body=view(files[0].fd))


async def message_written_elsewhere(codec: Codec, request: WebRequest, reply: Reply) -> memoryview:
    """The answer as a message of Pipeline's. Raises the same."""
    _, files = await codec.run(_WRITE_MESSAGE, *await _beside(codec, request, reply))
    return view(files[0].fd)


def _slim(known: Known) -> Known:
    return msgspec.structs.replace(known, spec=slim(known.spec))


async def _beside(codec: Codec, request: WebRequest, reply: Reply) -> tuple[_Answer, list[MemoryFile]]:
    tensors = [*reply.tensors]  # a new list, since the response cache may have the reply, too
    pieces = put_beside(tensors, 0)
    files = [await codec.filed(pieces)] if pieces else []
    asked = msgspec.structs.replace(request, inputs=[], headers=[], files=[])
    return _Answer(asked, msgspec.structs.replace(reply, tensors=tensors)), files


def _read(given: _Posted, files: _Files) -> tuple[WebRequest, list[MemoryFile]]:
    body = Body(given.data, files[0] if files else None)
    return handed_over(read_body(given.known, bytes(body.read()), either=given.either), [])


def _read_message(known: Known, files: _Files) -> tuple[WebRequest, list[MemoryFile]]:
    message = parsed(view(files[0].fd))
    return handed_over(pipeline.request_of(known, given_in(message)), [])


def _write(given: _Answer, files: _Files) -> tuple[Response, list[MemoryFile]]:
    put_in_place(given.reply.tensors, files)
    response = response_of(given.request, given.reply)
    return msgspec.structs.replace(response, body=b""), [_filed(response.body)]


def _write_message(given: _Answer, files: _Files) -> tuple[None, list[MemoryFile]]:
    put_in_place(given.reply.tensors, files)
    return None, [_filed(write_message(pipeline.answer_of(given.request, given.reply)))]


def _filed(data: bytes) -> MemoryFile:
    file = MemoryFile([data])
    file.seal()
    return file


_READ = Work(_read, _Posted, WebRequest)
_READ_MESSAGE = Work(_read_message, Known, WebRequest)
_WRITE = Work(_write, _Answer, Response, refusable=False)
_WRITE_MESSAGE = Work(_write_message, _Answer, type(None), refusable=False)
WORKS = (_READ, _READ_MESSAGE, _WRITE, _WRITE_MESSAGE)
