"""Work of this dialect for codec processes: reading large requests, writing large answers.

Each function calls the one that the front end uses for what is small.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from pdserver.configuration.model import ModelSpec
from pdserver.dialects.base import Body, Headers, Response
from pdserver.dialects.beside import handed_over
from pdserver.dialects.codec import Codec, Work
from pdserver.dialects.compression import decompressed
from pdserver.dialects.oip.body import json_object
from pdserver.dialects.oip.generate import generated, read_generation
from pdserver.dialects.oip.grpc_message import read_message
from pdserver.dialects.oip.grpc_wire import cut
from pdserver.dialects.oip.inference import answered, read_request
from pdserver.dialects.oip.repository import Brought, loading_of_json, loading_of_message, put_in_file
from pdserver.dialects.oip.request import InferRequest
from pdserver.large_data import put_beside, put_in_place
from pdserver.memory_file import MemoryFile, view
from pdserver.types import Interface, Reply

_Files = Sequence[MemoryFile]


class Inference(msgspec.Struct, frozen=True, array_like=True):
    """A body of /infer: `data`, or the one file."""

    spec: ModelSpec
    interface: Interface
    headers: Headers
    data: bytes
    head_bytes: int | None
    request_id: str
    accepts: bytes
    encoding: bytes
    limit_bytes: int


class Message(msgspec.Struct, frozen=True, array_like=True):
    """A ModelInferRequest, which is the one file."""

    spec: ModelSpec
    interface: Interface
    headers: Headers
    request_id: str
    timeout_seconds: float


class Generation(msgspec.Struct, frozen=True, array_like=True):
    """A body of /generate."""

    spec: ModelSpec
    interface: Interface
    headers: Headers
    data: bytes
    request_id: str
    encoding: bytes
    limit_bytes: int


class Answer(msgspec.Struct, frozen=True, array_like=True):
    """A reply, its large tensors in the one file (if there are any), and the request without its inputs."""

    request: InferRequest
    reply: Reply


class Load(msgspec.Struct, frozen=True, array_like=True):
    """A body of /load."""

    data: bytes
    encoding: bytes
    limit_bytes: int


async def beside(codec: Codec, request: InferRequest, reply: Reply) -> tuple[Answer, list[MemoryFile]]:
    """An answer for a codec process to write, and its file. Raises Unavailable."""
    # A new list, since the response cache may have the reply, too. Shared memory has its outputs already.
    placed = {name for name, form in request.forms.items() if form.region}
    tensors = [msgspec.structs.replace(t, data=b"") if t.name in placed else t for t in reply.tensors]
    pieces = put_beside(tensors, 0)
    asked = msgspec.structs.replace(request, inputs=[], headers=[], files=[])
    files = [await codec.filed(pieces)] if pieces else []
    return Answer(asked, msgspec.structs.replace(reply, tensors=tensors)), files


def _read(given: Inference, files: _Files) -> tuple[InferRequest, list[MemoryFile]]:
    body = decompressed(_body(given.data, files), given.encoding, given.limit_bytes)
    request = read_request(
        given.spec, given.interface, given.headers, body, given.head_bytes, given.request_id, given.accepts
    )
    return handed_over(request, body.kept)


def _read_message(given: Message, files: _Files) -> tuple[InferRequest, list[MemoryFile]]:
    found = cut(view(files[0].fd))
    request = read_message(
        given.spec,
        given.interface,
        found.message(),
        found.raw,
        given.headers,
        given.request_id,
        given.timeout_seconds,
    )
    return handed_over(request, [])


def _generate(given: Generation, files: _Files) -> tuple[InferRequest, list[MemoryFile]]:
    body = decompressed(_body(given.data, files), given.encoding, given.limit_bytes)
    said = json_object(body.read())
    return handed_over(read_generation(given.spec, given.interface, given.headers, said, given.request_id), [])


def _write(given: Answer, files: _Files) -> tuple[Response, list[MemoryFile]]:
    put_in_place(given.reply.tensors, files)
    response = answered(given.request, given.reply)
    file = MemoryFile([response.body, *response.more])
    file.seal()
    return msgspec.structs.replace(response, body=b"", more=()), [file]


def _write_generated(given: Answer, files: _Files) -> tuple[None, list[MemoryFile]]:
    put_in_place(given.reply.tensors, files)
    file = MemoryFile([generated(given.request, given.reply)])
    file.seal()
    return None, [file]


def _load(given: Load, files: _Files) -> tuple[Brought, list[MemoryFile]]:
    body = decompressed(_body(given.data, files), given.encoding, given.limit_bytes)
    brought, file = put_in_file("", loading_of_json(body.read()))
    return brought, [file]


def _load_message(_: None, files: _Files) -> tuple[Brought, list[MemoryFile]]:
    brought, file = put_in_file(*loading_of_message(view(files[0].fd)))
    return brought, [file]


def _body(data: bytes, files: _Files) -> Body:
    return Body(data, files[0] if files else None)


READ = Work(_read, Inference, InferRequest)
READ_MESSAGE = Work(_read_message, Message, InferRequest)
GENERATE = Work(_generate, Generation, InferRequest)
WRITE = Work(_write, Answer, Response, refusable=False)
WRITE_GENERATED = Work(_write_generated, Answer, type(None), refusable=False)
LOAD = Work(_load, Load, Brought)
LOAD_MESSAGE = Work(_load_message, type(None), Brought)
WORKS = (READ, READ_MESSAGE, GENERATE, WRITE, WRITE_GENERATED, LOAD, LOAD_MESSAGE)
