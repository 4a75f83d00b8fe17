"""`ts.handler_utils.micro_batching`."""

from __future__ import annotations

from typing import Any

from pdserver.handlers.context import Context


class MicroBatching:
    """Gives a handler its batches in pieces: `self.handle = MicroBatching(self)`.

    The handler's own `handle` takes the pieces one after the other. `parallelism` has no effect: a worker has one
    thread, since Paddle holds the interpreter lock during a run.
    """

    def __init__(
        self, parent_handler: Any, micro_batch_size: int = 1, parallelism: dict[str, int] | None = None
    ) -> None:
        self.handler = parent_handler
        self.micro_batch_size = micro_batch_size
        self.parallelism = dict(parallelism or {})

    def __call__(self, data: list[Any], context: Context) -> list[Any]:
        """One answer for each of `data`. In the context, `idx` counts from the start of the piece."""
        # The class's: the instance's attribute is this object.
        handle = type(self.handler).handle
        starts = range(0, len(data), self.micro_batch_size)
        pieces = [data[start : start + self.micro_batch_size] for start in starts]
        return [answer for piece in pieces for answer in handle(self.handler, piece, context)]

    def shutdown(self) -> None:
        """Does nothing: no threads run."""
