"""What other processes do for this dialect: they read large bodies, by the function that reads small ones."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from pdserver.dialects.base import Body
from pdserver.dialects.codec import Codec, Work
from pdserver.dialects.paddlex.bodies import Given, read_body
from pdserver.memory_file import MemoryFile


class _Posted(msgspec.Struct, frozen=True, array_like=True):
    """A body: `data`, or the one file."""

    task: str
    data: bytes


async def read_elsewhere(codec: Codec, task: str, body: Body) -> tuple[Given, list[MemoryFile]]:
    """What the body says, and a file with the picture, unless there is a URL. Raises what `read_body` and `codec.run`
    do."""
    return await codec.run(_READ, _Posted(task, body.data), body.files)


def _read(posted: _Posted, files: Sequence[MemoryFile]) -> tuple[Given, list[MemoryFile]]:
    given = read_body(posted.task, Body(posted.data, files[0] if files else None).read())
    if given.url:
        return given, []
    file = MemoryFile([given.picture])
    file.seal()
    return msgspec.structs.replace(given, picture=b""), [file]


_READ = Work(_read, _Posted, Given)
WORKS = (_READ,)
