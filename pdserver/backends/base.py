"""What the engine knows of workers, wherever they live."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from pdserver.configuration.model import ModelSpec
from pdserver.errors import WorkerDied
from pdserver.types import Answered, Interface, Reply, Request


class Worker(Protocol):
    """One process that holds one copy of one version. Used by one coroutine, for one batch at a time."""

    @property
    def id(self) -> int: ...

    @property
    def pid(self) -> int: ...

    async def load(self, spec: ModelSpec, device_id: int | None) -> Interface:
        """Load the model. Raises LoadFailed with the reason, or WorkerDied."""

    async def exchange(self, requests: list[Request], on_chunk: Callable[[int, Reply], None]) -> Answered:
        """Have one batch answered; `on_chunk` is given the pieces of streamed answers, by the request's index.

        Raises WorkerDied when the worker ends, or is ended, before it answered; it is `untouched` when it can't have
        begun with the batch."""

    async def death(self) -> WorkerDied:
        """Why it died, once it has; waits a little for the reason to be known."""

    def on_death(self, callback: Callable[[], None]) -> None:
        """Call back, once, when the worker's channel has ended; at once if it has already."""

    def memory_bytes(self) -> int:
        """The memory that is its own, and free when it ends; 0 when that is not known."""

    def kill(self, reason: str) -> None:
        """End it now. The exchange that waits raises WorkerDied with this reason."""

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
