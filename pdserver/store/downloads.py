"""Archives by URL: downloaded once for all who ask for one at the same time, into a folder of the server's own."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
from collections.abc import AsyncIterator
from pathlib import Path

from pdarchiver.staging import staged_file
from pdserver.configuration.sources import AllowedUrls, Url, is_url
from pdserver.errors import Forbidden, ModelNotFound, PdError, Unavailable
from pdserver.store.transfer import Transfer
from pdserver.system.folders import make_folder

_AT_A_TIME = 4


class _Flight:
    """A download, running or done, and how many wait for it or use its file."""

    def __init__(self, transfer: Transfer, path: Path) -> None:
        self.transfer = transfer
        self.path = path
        self.users = 0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.task: asyncio.Task[None] | None = None


def _settle(landed: asyncio.Future[PdError | None], problem: PdError | None) -> None:
    if not landed.done():
        landed.set_result(problem)


class Downloads:
    """Owned by the event loop. Daemon threads do what blocks, so a download never keeps the process from ending."""

    def __init__(self, folder: Path, allowed: AllowedUrls, *, max_bytes: int, timeout_seconds: float) -> None:
        self._folder = folder
        self._allowed = allowed
        self._max_bytes = max_bytes
        self._timeout_seconds = timeout_seconds
        self._flights: dict[str, _Flight] = {}
        self._turns = asyncio.Semaphore(_AT_A_TIME)
        self._numbers = itertools.count()

    @contextlib.asynccontextmanager
    async def fetched(self, url: str) -> AsyncIterator[Path | None]:
        """Yields the path of the archive at `url`, valid inside the `with`; None when `url` names a file of the store.

        Raises InvalidRequest for no URL of an archive, Forbidden for one that is not allowed, ModelNotFound for a
        missing file, ArchiveUnusable for what cannot be downloaded, Unavailable when there is no room for it.
        """
        if not is_url(url):
            yield None
            return
        parsed = self._allowed.check(url)
        if parsed.scheme == "file":
            yield await asyncio.to_thread(self._local, parsed)
            return
        flight = self._flights.get(str(parsed)) or self._start(parsed)
        flight.users += 1
        try:
            await asyncio.shield(flight.done)
            yield flight.path
        finally:
            flight.users -= 1
            if not flight.users:
                if self._flights.get(str(parsed)) is flight:
                    del self._flights[str(parsed)]
                flight.transfer.stop(Unavailable("nobody waits for it any more"))
                await asyncio.to_thread(flight.path.unlink, missing_ok=True)

    def close(self) -> None:
        """Idempotent."""
        for flight in self._flights.values():
            flight.transfer.stop(Unavailable("the server is stopping"))

    def _start(self, url: Url) -> _Flight:
        transfer = Transfer(url, self._allowed, max_bytes=self._max_bytes, timeout_seconds=self._timeout_seconds)
        flight = _Flight(transfer, self._folder / str(next(self._numbers)))
        self._flights[str(url)] = flight
        flight.task = asyncio.get_running_loop().create_task(self._fly(flight))
        flight.task.add_done_callback(lambda _: flight.done.cancel())  # does nothing once it is settled
        return flight

    async def _fly(self, flight: _Flight) -> None:
        loop = asyncio.get_running_loop()
        landed: asyncio.Future[PdError | None] = loop.create_future()

        def work() -> None:
            problem = self._write(flight)
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(_settle, landed, problem)

        async with self._turns:
            threading.Thread(target=work, name=f"download {flight.path.name}", daemon=True).start()
            problem = await landed
        if problem is None:
            flight.done.set_result(None)
        else:
            flight.done.set_exception(problem)
            flight.done.exception()  # marks it as retrieved: there may be nobody left to await it

    def _write(self, flight: _Flight) -> PdError | None:
        """Write the file, whole and synced to disk, or not at all; returns what went wrong."""
        try:
            make_folder(self._folder, 0o700)
            with staged_file(flight.path) as stage, stage.open("wb") as file:
                flight.transfer.run(file)
        except PdError as error:
            return error
        except OSError as error:
            return Unavailable(f"no room for a download in {self._folder}: {error.strerror}")
        return None

    def _local(self, url: Url) -> Path:
        """The file with links resolved. It must lie below an allowed prefix after that, too."""
        path = Path("/", *url.segments)
        try:
            resolved = path.resolve(strict=True)
        except (OSError, RuntimeError):
            raise ModelNotFound(f"{url}: no such file") from None
        if not any(
            resolved.is_relative_to(Path("/", *prefix.segments).resolve())
            for prefix in self._allowed.prefixes
            if prefix.scheme == "file"
        ):
            raise Forbidden(f"{url}: a link that leads to where allowed_urls does not")
        return resolved
