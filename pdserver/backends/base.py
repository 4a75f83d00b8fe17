"""What the engine knows of workers, wherever they live."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from pdserver.configuration.model import ModelSpec
from pdserver.errors import WorkerDied
from pdserver.types import Answered, Interface, Reply, Request


class Unsendable(Exception):
    """Some requests of a batch can't be sent to a worker. `reasons` says why, by their positions in it."""

    def __init__(self, reasons: Mapping[int, str]) -> None:
        super().__init__("; ".join(reasons.values()))
        self.reasons = reasons


class Worker(Protocol):
    """One process that holds one copy of one version."""

    @property
    def id(self) -> int: ...

    @property
    def pid(self) -> int: ...

    async def load(self, spec: ModelSpec, device_id: int | None) -> Interface:
        """Load the model. Raises LoadFailed with the reason, or WorkerDied."""

    def serve(self, on_answered: Callable[[Answered], None], on_chunk: Callable[[int, Reply], None]) -> None:
        """Take batches from now on. `on_answered` is given the answers to each, in the order in which they were sent;
        `on_chunk` the pieces of streamed answers, by the request's index in the oldest batch without an answer."""

    def send(self, requests: list[Request]) -> None:
        """Have one more batch answered. A worker that dies first answers none of what it has (`on_death`).

        Raises Unsendable, and has sent nothing then."""

    async def death(self) -> WorkerDied:
        """Why it died, once it has; waits a little for the reason to be known. It is `untouched` when it can't have
        begun with the last batch that it was sent."""

    def on_death(self, callback: Callable[[], None]) -> None:
        """Call back, once, when the worker's channel has ended; at once if it has already."""

    def memory_bytes(self) -> int:
        """The memory that is its own, and free when it ends; 0 when that is not known."""

    def give_way(self) -> None:
        """Leave the processor to others until `stand`, where the system allows that."""

    async def stand(self) -> None:
        """Have its share of the processor again."""

    def kill(self, reason: str) -> None:
        """End it now, for this reason."""

    def abort(self, reason: str) -> None:
        """End it because it hangs: as `kill`, but where it hangs is written to the log, if it still can be."""

    async def stop(self, grace_seconds: float) -> None:
        """Hang up, and make sure that it is gone: killed when it is still there after the grace. Idempotent."""


class Backend(Protocol):
    """A place where workers live."""

    async def spawn(self, spec: ModelSpec) -> Worker:
        """A new worker for this model, not loaded yet. Raises WorkerDied when none could be started."""

    async def close(self) -> None:
        """End every worker that is left. Idempotent."""
