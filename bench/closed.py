"""The results of a closed loop, for every protocol."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Closed:
    """The results of clients that each wait for an answer before they ask again."""

    requests_per_second: float
    p50_ms: float
    p99_ms: float
    requests: int
    failures: int
    """Answers other than 2xx and 3xx, broken connections and timeouts."""
