"""The dialects' interface to codec processes, which work on large bodies.

Reading or writing JSON or protobuf holds the interpreter's lock from the first byte to the last. In the front end, one
client's 60 MB would block all others for seconds. So other processes read and write large bodies, with the same
functions that the front end uses for small ones. A request comes back as if it had been read here, before it is queued,
and no model's worker spends time on it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from pdserver.memory_file import Buffer, MemoryFile

LARGE_BYTES = 64 * 1024
"""The slowest JSON of this size takes some 10 ms to read. Numbers take less time than passing the body on."""
Given = TypeVar("Given")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Work(Generic[Given, Result]):
    """A function that another process can run. `given` and `result` are types that msgspec supports.

    The function also takes and returns memory files, and may raise PdError.
    """

    function: Callable[[Given, Sequence[MemoryFile]], tuple[Result, list[MemoryFile]]]
    given: type[Given]
    result: type[Result]
    refusable: bool = True
    """Whether it is refused if much other work waits. False for answers, whose models have run already."""

    @property
    def name(self) -> str:
        return f"{self.function.__module__}.{self.function.__qualname__}"


class Codec(Protocol):
    """Runs such work."""

    async def run(
        self, work: Work[Given, Result], given: Given, files: Sequence[MemoryFile], weight: int = 0
    ) -> tuple[Result, list[MemoryFile]]:
        """The function's result. `weight` is the number of bytes that it will work on, if that is more than the files
        have.

        Raises what the function raises, Overloaded, Unavailable if no process can be started, and WorkerDied if the
        work ends its process.
        """

    async def filed(self, pieces: Sequence[Buffer]) -> MemoryFile:
        """A sealed memory file with these pieces. A thread copies many bytes. Raises Unavailable."""
