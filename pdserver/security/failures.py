"""Limits failed attempts to authenticate."""

from __future__ import annotations

EACH = 10
ALL = 100
"""Allowed failures in one second, of one client and of all together."""


class Failures:
    """Counts failures by client, second by second. It never holds more than ALL clients."""

    def __init__(self) -> None:
        self._second = 0
        self._by_client: dict[str, int] = {}
        self._all = 0

    def another(self, client: str, now: float) -> bool:
        """Count a failure at `now` (seconds of any clock). Returns whether it is one too many."""
        if int(now) != self._second:
            self._second = int(now)
            self._by_client = {}
            self._all = 0
        count = self._by_client.get(client, 0) + 1
        if count > EACH or self._all >= ALL:
            return True
        self._by_client[client] = count
        self._all += 1
        return False
