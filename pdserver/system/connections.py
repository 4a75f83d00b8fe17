"""The open connections of a port, which has a limit for them."""

from __future__ import annotations

from typing import Any

from pdserver.system.shared_page import SharedPage


class Connections(set[Any]):
    """Those of a port that this process serves alone."""

    def exceed(self, most: int) -> bool:
        """Whether there are more than so many."""
        return len(self) > most


class SharedConnections(Connections):
    """This process's connections of a port that others serve, too. How many there are is at `place` of the page."""

    def __init__(self, page: SharedPage, place: int) -> None:
        super().__init__()
        self._page = page
        self._place = place

    def add(self, connection: Any) -> None:
        super().add(connection)
        self._page.own[self._place] = len(self)

    def discard(self, connection: Any) -> None:
        super().discard(connection)
        self._page.own[self._place] = len(self)

    def exceed(self, most: int) -> bool:
        """Whether all processes together have more than so many."""
        return self._page.total(self._place) > most
