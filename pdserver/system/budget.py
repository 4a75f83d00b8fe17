"""The memory for bodies that are being received, which all connections of the server share."""

from __future__ import annotations

from pdserver.system.shared_page import SharedPage


class Budget:
    """Bytes that incomplete bodies may have together. Owned by the event loop's thread.

    A refused body returns its bytes, so the others make progress. Pausing the reading instead would not work: bodies
    that wait for each other's memory would wait for ever.
    """

    def __init__(self, capacity_bytes: int) -> None:
        self.capacity_bytes = capacity_bytes
        self.held_bytes = 0

    def take(self, more_bytes: int, own_bytes: int) -> bool:
        """Take more for a body that has `own_bytes` already. False if there is not enough. A single body always gets
        more, however large it is."""
        held = self.held_bytes + more_bytes
        if held > self.capacity_bytes and self.held_bytes > own_bytes:
            return False
        self.held_bytes = held
        return True

    def give_back(self, own_bytes: int) -> None:
        """Return a body's bytes: it is complete, or not wanted any more."""
        self.held_bytes -= own_bytes


class SharedBudget(Budget):
    """This process's part of a budget that several have together. What each holds is at `place` of the page."""

    def __init__(self, capacity_bytes: int, page: SharedPage, place: int) -> None:
        super().__init__(capacity_bytes)
        self._page = page
        self._place = place

    def take(self, more_bytes: int, own_bytes: int) -> bool:
        held = self._page.total(self._place)
        if held + more_bytes > self.capacity_bytes and held > own_bytes:
            return False
        self.held_bytes += more_bytes
        self._page.own[self._place] = self.held_bytes
        return True

    def give_back(self, own_bytes: int) -> None:
        super().give_back(own_bytes)
        self._page.own[self._place] = self.held_bytes
