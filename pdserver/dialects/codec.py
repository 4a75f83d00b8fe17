"""Work on large bodies, which processes of its own do: what the dialects know of it.

Reading JSON or protobuf holds the interpreter lock from the first byte to the last, and so does writing them: in the
front end, one client's 60 MB would hold up all others for seconds. What is large is therefore read and written
elsewhere, by the very function that does it here for what is small: a request comes back as if it had been read here,
before it is queued, and no model's worker spends its time on it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from pdserver.memory_file import Buffer, MemoryFile

LARGE_BYTES = 64 * 1024
"""Of this, the slowest JSON takes some 10 ms to read, and numbers take less than handing it over does."""
Given = TypeVar("Given")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Work(Generic[Given, Result]):
    """A function that another process can be asked to run; `given` and `result` are types that msgspec knows.

    It takes and gives memory files besides, and may raise PdError.
    """

    function: Callable[[Given, Sequence[MemoryFile]], tuple[Result, list[MemoryFile]]]
    given: type[Given]
    result: type[Result]
    refusable: bool = True
    """Whether it is refused when much else waits. False for answers: their models have run already."""

    @property
    def name(self) -> str:
        return f"{self.function.__module__}.{self.function.__qualname__}"


class Codec(Protocol):
    """Who has such work done."""

    async def run(
        self, work: Work[Given, Result], given: Given, files: Sequence[MemoryFile], weight: int = 0
    ) -> tuple[Result, list[MemoryFile]]:
        """What the function gives, or raises. `weight` is how many bytes it will work on, where that is more than the
        files have.

        Raises Overloaded, Unavailable when no process can be started, WorkerDied when the work ends its process.
        """

    async def filed(self, pieces: Sequence[Buffer]) -> MemoryFile:
        """A sealed memory file with these pieces; many bytes are copied by a thread. Raises Unavailable."""
