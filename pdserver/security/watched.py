"""Files that may change while the server runs: tokens, certificates."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

_LOOK_SECONDS = 1.0


class Watched:
    """Calls `on_change` when one of the files has changed.

    It polls. An orchestrator changes a mounted secret by pointing a link elsewhere, which a notification for the file
    itself would miss.
    """

    def __init__(self, files: Sequence[Path], on_change: Callable[[], None]) -> None:
        self._files = files
        self._on_change = on_change
        self._seen = self._look()

    def _look(self) -> list[tuple[int, int, int] | None]:
        return [_signature(path) for path in self._files]

    async def watch(self) -> None:
        """Watch until it is cancelled."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            self._compare(await asyncio.to_thread(self._look))

    def has_changed(self) -> bool:
        """Look now instead of waiting for the next look. `on_change` has been called if a file has changed."""
        return self._compare(self._look())

    def _compare(self, seen: list[tuple[int, int, int] | None]) -> bool:
        if seen == self._seen or None in seen:
            return False
        self._seen = seen
        self._on_change()
        return True


def _signature(path: Path) -> tuple[int, int, int] | None:
    """A value that changes with the file, or None if there is no file."""
    try:
        state = path.stat()
    except OSError:
        return None
    return state.st_ino, state.st_mtime_ns, state.st_size
