"""`ts.handler_utils.micro_batching`."""

from __future__ import annotations

from typing import Any

from pdserver.handlers.context import Context


class MicroBatching:
    """Gives a handler its batches in pieces: `self.handle = MicroBatching(self)`.

    The pieces go through the handler's own `handle` one after the other. `parallelism` is kept, and has no effect:
    a worker is one thread, since Paddle holds the interpreter lock for the whole of a run.
    """

    def __init__(
        self, parent_handler: Any, micro_batch_size: int = 1, parallelism: dict[str, int] | None = None
    ) -> None:
        self.handler = parent_handler
        self.micro_batch_size = micro_batch_size
        self.parallelism = dict(parallelism or {})

    def __call__(self, data: list[Any], context: Context) -> list[Any]:
        """One answer for each of `data`. An `idx` of the context counts from the beginning of the piece."""
        # Not the instance's attribute, which is this object.
        handle = type(self.handler).handle
        starts = range(0, len(data), self.micro_batch_size)
        pieces = [data[start : start + self.micro_batch_size] for start in starts]
        return [answer for piece in pieces for answer in handle(self.handler, piece, context)]

    def shutdown(self) -> None:
        """Nothing runs that would have to end."""
