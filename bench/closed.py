"""What a closed loop finds, whichever protocol it speaks."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Closed:
    """What a number of clients saw, each of which waits for an answer before it asks again."""

    requests_per_second: float
    p50_ms: float
    p99_ms: float
    requests: int
    failures: int
    """Answers other than 2xx and 3xx, broken connections and timeouts."""
