"""Work on messages for codec processes: reading large ones that have to be looked at, writing such answers.

Each function calls the one that the front end uses for what is small.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from pdserver.dialects.beside import handed_over, request_by, slim
from pdserver.dialects.codec import Codec, Work
from pdserver.dialects.tensorflow.examples_message import read_input
from pdserver.dialects.tensorflow.predict_message import read_filled, read_inputs, whole, write
from pdserver.dialects.tensorflow.request import Asked, Form, ServingRequest
from pdserver.dialects.tensorflow.tensor_proto import Data, FewElements
from pdserver.errors import InvalidRequest
from pdserver.large_data import put_beside, put_in_place
from pdserver.memory_file import MemoryFile, view
from pdserver.types import Reply

_Files = Sequence[MemoryFile]


class _Given(msgspec.Struct, frozen=True, array_like=True):
    """A PredictRequest, which is the one file; and how many bytes a tensor may have when it is filled up."""

    asked: Asked
    limit_bytes: int


class _Answer(msgspec.Struct, frozen=True, array_like=True):
    """A reply, its large tensors in the one file (if there are any), and the request without its inputs."""

    request: ServingRequest
    reply: Reply
    as_content: bool


class _Examples(msgspec.Struct, frozen=True, array_like=True):
    """An Input, which is the one file; and how many bytes its context may have in all examples together."""

    asked: Asked
    form: Form
    limit_bytes: int


async def read_elsewhere(
    codec: Codec, asked: Asked, data: Data, limit_bytes: int
) -> tuple[ServingRequest, list[MemoryFile]]:
    """The request and its files. Raises InvalidRequest, and what `codec.run` does."""
    given = _Given(msgspec.structs.replace(asked, spec=slim(asked.spec)), limit_bytes)
    return await request_by(codec, _READ, given, [await codec.filed([data])])


async def examples_elsewhere(
    codec: Codec, asked: Asked, data: bytes, form: Form, limit_bytes: int
) -> tuple[ServingRequest, list[MemoryFile]]:
    """The request of an Input, and its files. Raises InvalidRequest, and what `codec.run` does."""
    given = _Examples(msgspec.structs.replace(asked, spec=slim(asked.spec)), form, limit_bytes)
    return await request_by(codec, _READ_EXAMPLES, given, [await codec.filed([data])])


async def written_elsewhere(codec: Codec, request: ServingRequest, reply: Reply, *, as_content: bool) -> memoryview:
    """The answer. Raises what `codec.run` does."""
    tensors = [*reply.tensors]  # a new list, since the response cache may have the reply, too
    pieces = put_beside(tensors, 0)
    files = [await codec.filed(pieces)] if pieces else []
    asked = msgspec.structs.replace(request, inputs=[], headers=[], files=[])
    _, files = await codec.run(
        _WRITE, _Answer(asked, msgspec.structs.replace(reply, tensors=tensors), as_content), files
    )
    return view(files[0].fd)


def _read(given: _Given, files: _Files) -> tuple[ServingRequest, list[MemoryFile]]:
    data = view(files[0].fd)
    message, inputs = whole(data)
    try:
        return handed_over(read_inputs(given.asked, inputs, message.output_filter), [])
    except FewElements:
        pass
    try:
        return handed_over(read_filled(given.asked, data, given.limit_bytes), [])
    except FewElements:
        raise InvalidRequest(
            f"tensor parsing error: a tensor has more than {given.limit_bytes:,} bytes with the elements that its shape"
            " has and its message does not: they are taken for repetitions of the last one"
        ) from None


def _read_examples(given: _Examples, files: _Files) -> tuple[ServingRequest, list[MemoryFile]]:
    return handed_over(read_input(given.asked, view(files[0].fd), given.form, given.limit_bytes), [])


def _write(given: _Answer, files: _Files) -> tuple[None, list[MemoryFile]]:
    put_in_place(given.reply.tensors, files)
    written = write(given.request, given.reply, as_content=given.as_content)
    file = MemoryFile([written] if isinstance(written, bytes) else written)
    file.seal()
    return None, [file]


_READ = Work(_read, _Given, ServingRequest)
_WRITE = Work(_write, _Answer, type(None), refusable=False)
_READ_EXAMPLES = Work(_read_examples, _Examples, ServingRequest)
WORKS = (_READ, _WRITE, _READ_EXAMPLES)
