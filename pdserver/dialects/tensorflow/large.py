"""Work of this dialect for codec processes: reading large requests in JSON, writing large answers.

Each function calls the one that the front end uses for what is small.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from pdserver.dialects.base import Body
from pdserver.dialects.beside import handed_over, request_by, slim
from pdserver.dialects.codec import Codec, Work
from pdserver.dialects.compression import compressed, decompressed
from pdserver.dialects.tensorflow.answer_json import write
from pdserver.dialects.tensorflow.examples_json import read_examples
from pdserver.dialects.tensorflow.predict_json import read_predict
from pdserver.dialects.tensorflow.request import Asked, Form, ServingRequest
from pdserver.dialects.tensorflow.usual import usual_of
from pdserver.large_data import put_beside, put_in_place
from pdserver.memory_file import MemoryFile, view
from pdserver.types import Reply

_Files = Sequence[MemoryFile]


class _Given(msgspec.Struct, frozen=True, array_like=True):
    """A body, `data` or the one file, with its Content-Encoding, and the limit of what it unpacks to."""

    asked: Asked
    form: Form
    data: bytes
    encoding: bytes
    limit_bytes: int


class _Answer(msgspec.Struct, frozen=True, array_like=True):
    """A reply, its large tensors in the one file (if there are any), and the request without its inputs."""

    request: ServingRequest
    reply: Reply
    labels: dict[int, str]
    encoding: str
    """What the answer is to be compressed with; empty: nothing."""


def read(asked: Asked, form: Form, text: bytes | memoryview, most_bytes: int) -> ServingRequest:
    """A body that is not the usual one. A prediction's form is empty, for it is in the body. `most_bytes`: of a
    context, in all examples together. Raises InvalidRequest, LongContext."""
    return read_examples(asked, text, form, most_bytes) if form else read_predict(asked, text)


async def read_elsewhere(
    codec: Codec, asked: Asked, form: Form, body: Body, encoding: bytes, limit_bytes: int
) -> tuple[ServingRequest, list[MemoryFile]]:
    """The request and its files. Raises InvalidRequest, TooLarge, Unsupported, and what `codec.run` does."""
    asked = msgspec.structs.replace(asked, spec=slim(asked.spec))
    weight = limit_bytes if encoding else 0  # its size is not known before it is unpacked
    return await request_by(codec, _READ, _Given(asked, form, body.data, encoding, limit_bytes), body.files, weight)


async def written_elsewhere(
    codec: Codec, request: ServingRequest, reply: Reply, labels: dict[int, str], encoding: str
) -> memoryview:
    """The answer. Raises InvalidRequest, and what `codec.run` does."""
    tensors = [*reply.tensors]  # a new list, since the response cache may have the reply, too
    pieces = put_beside(tensors, 0)
    files = [await codec.filed(pieces)] if pieces else []
    asked = msgspec.structs.replace(request, inputs=[], headers=[], files=[])
    answer = _Answer(asked, msgspec.structs.replace(reply, tensors=tensors), labels, encoding)
    _, files = await codec.run(_WRITE, answer, files)
    return view(files[0].fd)


def _read(given: _Given, files: _Files) -> tuple[ServingRequest, list[MemoryFile]]:
    body = decompressed(Body(given.data, files[0] if files else None), given.encoding, given.limit_bytes)
    asked, text = given.asked, body.read()
    usual = None if given.form else usual_of(asked.spec, asked.interface)
    request = usual and usual.read(text, asked.headers, asked.request_id, asked.accepts, asked.timeout_seconds)
    return handed_over(request or read(asked, given.form, text, given.limit_bytes), [])


def _write(given: _Answer, files: _Files) -> tuple[None, list[MemoryFile]]:
    put_in_place(given.reply.tensors, files)
    data = write(given.request, given.reply, given.labels)
    file = MemoryFile([compressed([data], given.encoding) if given.encoding else data])
    file.seal()
    return None, [file]


_READ = Work(_read, _Given, ServingRequest)
_WRITE = Work(_write, _Answer, type(None), refusable=False)
WORKS = (_READ, _WRITE)
