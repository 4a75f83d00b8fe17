"""Since when something is as it is."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping
from datetime import datetime, timezone


class Since:
    """Remembers when the states of things were first seen as they are; `clock` gives seconds since 1970."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._seen: Mapping[Hashable, tuple[str, float]] = {}

    def note(self, states: Mapping[Hashable, str]) -> None:
        """These are the states now. What is not among them is forgotten."""
        self._seen = {each: (state, self.of(each, state)) for each, state in states.items()}

    def of(self, each: Hashable, state: str) -> float:
        """Since when it is in this state; now, if it was in another one when states were noted."""
        before = self._seen.get(each)
        return before[1] if before is not None and before[0] == state else self._clock()


def written(seconds: float) -> str:
    """A time since 1970 as text, such as 2026-11-30T12:00:00Z."""
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
