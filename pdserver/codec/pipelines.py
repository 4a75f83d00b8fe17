"""What codec processes do for pipelines."""

from __future__ import annotations

from collections.abc import Sequence

from pdserver.dialects.codec import Codec, Work
from pdserver.engine.pipeline import elsewhere
from pdserver.engine.pipeline.elsewhere import Reading, Writing
from pdserver.memory_file import MemoryFile
from pdserver.pipeline.moved import Moved


class PipelineCodec:
    """As the engine has it (`elsewhere.Elsewhere`)."""

    def __init__(self, codec: Codec) -> None:
        self._codec = codec

    async def read(self, given: Reading, files: Sequence[MemoryFile]) -> tuple[Moved, list[MemoryFile]]:
        return await self._codec.run(_READ, given, files)

    async def write(self, given: Writing, files: Sequence[MemoryFile]) -> MemoryFile:
        _, [file] = await self._codec.run(_WRITE, given, files)
        return file


def _write(given: Writing, files: Sequence[MemoryFile]) -> tuple[None, list[MemoryFile]]:
    return None, [elsewhere.write(given, files)]


_READ = Work(elsewhere.read, Reading, Moved)
_WRITE = Work(_write, Writing, type(None), refusable=False)
WORKS = (_READ, _WRITE)
