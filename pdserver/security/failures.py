"""Limits failed attempts to authenticate."""

from __future__ import annotations

import zlib

from pdserver.system.shared_page import SharedPage

EACH = 10
ALL = 100
"""Allowed failures in one second, of one client and of all together."""
_GROUPS = 128
SHARED_NUMBERS = 2 + _GROUPS
"""Of a page that several processes share: the second, all failures in it, and those of each group of clients."""


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


class SharedFailures(Failures):
    """The same of several processes together, from `place` of a page on. It counts clients by groups: those that fail
    in the same second as many others may be refused sooner."""

    def __init__(self, page: SharedPage, place: int) -> None:
        super().__init__()
        self._rows = [row[place : place + SHARED_NUMBERS] for row in page.rows]
        self._own = page.own[place : place + SHARED_NUMBERS]

    def another(self, client: str, now: float) -> bool:
        second, own = int(now), self._own
        if own[0] != second:
            own[:] = memoryview(bytes(own.nbytes)).cast("q")
            own[0] = second
        group = 2 + zlib.crc32(client.encode()) % _GROUPS
        rows = [row for row in self._rows if row[0] == second]
        if sum([row[group] for row in rows]) >= EACH or sum([row[1] for row in rows]) >= ALL:
            return True
        own[group] += 1
        own[1] += 1
        return False
