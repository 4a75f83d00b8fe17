"""Work of this dialect for codec processes: reading large requests, writing large answers.

Each function calls the one that the front end uses for what is small.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from pdserver.dialects.base import Body
from pdserver.dialects.beside import handed_over, request_by, slim
from pdserver.dialects.codec import Codec, Work
from pdserver.dialects.compression import compressed, decompressed
from pdserver.dialects.paddle.general import read, write
from pdserver.dialects.paddle.request import Asked, GeneralRequest
from pdserver.large_data import put_beside, put_in_place
from pdserver.memory_file import MemoryFile, view
from pdserver.types import Reply

_Files = Sequence[MemoryFile]


class _Given(msgspec.Struct, frozen=True, array_like=True):
    """A body, `data` or the one file, with its Content-Encoding, and the limit of what it unpacks to."""

    asked: Asked
    data: bytes
    encoding: bytes
    limit_bytes: int


class _Answer(msgspec.Struct, frozen=True, array_like=True):
    """A reply, its large tensors in the one file (if there are any), and the request without its inputs."""

    request: GeneralRequest
    reply: Reply
    encoding: str
    """What the answer is to be compressed with; empty: nothing."""


async def read_elsewhere(
    codec: Codec, asked: Asked, body: Body, encoding: bytes = b"", limit_bytes: int = 0
) -> tuple[GeneralRequest, list[MemoryFile]]:
    """The request and its files. Raises InvalidRequest, TooLarge, Unsupported, and what `codec.run` does."""
    given = _Given(msgspec.structs.replace(asked, spec=slim(asked.spec)), body.data, encoding, limit_bytes)
    weight = limit_bytes if encoding else 0  # its size is not known before it is unpacked
    return await request_by(codec, _READ, given, body.files, weight)


async def written_elsewhere(codec: Codec, request: GeneralRequest, reply: Reply, encoding: str = "") -> memoryview:
    """The answer. Raises Unsupported, and what `codec.run` does."""
    tensors = [*reply.tensors]  # a new list, since the response cache may have the reply, too
    pieces = put_beside(tensors, 0)
    files = [await codec.filed(pieces)] if pieces else []
    asked = msgspec.structs.replace(request, inputs=[], headers=[], files=[])
    answer = _Answer(asked, msgspec.structs.replace(reply, tensors=tensors), encoding)
    _, files = await codec.run(_WRITE, answer, files)
    return view(files[0].fd)


def _read(given: _Given, files: _Files) -> tuple[GeneralRequest, list[MemoryFile]]:
    body = decompressed(Body(given.data, files[0] if files else None), given.encoding, given.limit_bytes)
    return handed_over(read(given.asked, body.read()), [])


def _write(given: _Answer, files: _Files) -> tuple[None, list[MemoryFile]]:
    put_in_place(given.reply.tensors, files)
    data = write(given.request, given.reply)
    file = MemoryFile([compressed([data], given.encoding) if given.encoding else data])
    file.seal()
    return None, [file]


_READ = Work(_read, _Given, GeneralRequest)
_WRITE = Work(_write, _Answer, type(None), refusable=False)
WORKS = (_READ, _WRITE)
