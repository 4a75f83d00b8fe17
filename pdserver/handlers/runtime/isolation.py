"""A batch that failed → each of its requests by itself, once, so that a bad one takes no other along."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from pdserver.configuration.model import ModelSpec
from pdserver.errors import InvalidRequest
from pdserver.handlers.context import Context
from pdserver.handlers.runtime.answers import failure
from pdserver.types import Outcome, Reply

SendPiece = Callable[[int, Reply], None]
_log = logging.getLogger("pdserver.handlers")
_SHARE = 0.9
"""Of responseTimeout: a worker that exceeds it is ended, and the rest is for the way there and back."""


class Isolation:
    """How a worker treats the failed batches of one model: see the setting isolateFailures."""

    def __init__(self, spec: ModelSpec, context: Context) -> None:
        # What a stateful handler has taken in cannot be given to it again.
        self._wanted = spec.isolate_failures and not (spec.sequence_batching or spec.continuous_batching)
        self._seconds = spec.response_timeout_seconds * _SHARE
        self._context = context
        self._metrics = context.metrics
        self._until = 0.0
        self._sent = False
        self._measured = 0

    def begin(self) -> None:
        """Start the time for a new batch."""
        self._until = time.perf_counter() + self._seconds

    def attempt(self) -> None:
        """Note that the handler is about to be called."""
        self._sent = False
        self._measured = self._metrics.count

    def sent(self) -> None:
        """Note that a piece of an answer is on its way, so this attempt can't be repeated."""
        self._sent = True

    def outcomes(self, error: BaseException, count: int, run: Callable[[int], Outcome]) -> list[Outcome]:
        """The outcomes of `count` requests, after the attempt failed with `error`. `run` runs one of them by itself.

        Requests for which no time is left share the failure. All do if they may not be run again.
        """
        shared = failure(error, self._context.request_ids.values())
        if count == 1 or not self._wanted or self._sent:
            return [shared] * count
        if not isinstance(error, InvalidRequest):
            _log.warning("a batch failed, so its %d requests are run one by one (isolateFailures)", count)
        self._metrics.drop(self._measured)
        found: list[Outcome] = []
        longest = 0.0
        while len(found) < count:
            started = time.perf_counter()
            if started + longest > self._until:
                _log.warning("no time is left for %d of them (responseTimeout)", count - len(found))
                break
            found.append(run(len(found)))
            longest = max(longest, time.perf_counter() - started)
        return found + [shared] * (count - len(found))
