"""What a model repository of archives does, whoever serves them: one server, or a cluster."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NoReturn
from weakref import WeakValueDictionary

from pdserver.dialects.oip.repository import LoadParameters
from pdserver.errors import InvalidRequest, LoadFailed, PdError
from pdserver.formats.values import nearest, shown
from pdserver.store.model import SUFFIXES


class ArchiveRepository(ABC):
    """`names` lists the archives of the model store; it may block."""

    def __init__(self, names: Callable[[], list[str]]) -> None:
        self._names = names
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        """By name: a model is loaded and unloaded by one call after the other."""
        self._tried: set[str] = set()
        """Models that have been loaded or unloaded, or should have been."""

    async def load(self, name: str, parameters: LoadParameters) -> None:
        """The archive of this name, or, once more, the one that the model came from. Raises LoadFailed, and
        InvalidRequest for any parameter."""
        if parameters:
            refuse(name, next(iter(parameters)))
        async with self._lock(name):
            url = await self._archive(name)
            self._tried.add(name)
            try:
                await self._load(name, url)
            except PdError as error:
                raise LoadFailed(f"failed to load '{name}', no version is available: {error}") from None

    def known(self) -> frozenset[str]:
        return frozenset(self._tried)

    @abstractmethod
    async def _load(self, name: str, url: str) -> None:
        """A new version in the archive takes over; the same version goes on as it is, with a worker if it has none.
        Raises PdError."""

    @abstractmethod
    def _url_of_default(self, name: str) -> str | None:
        """The archive of the version that answers for a model; None: it is not served."""

    def _lock(self, name: str) -> asyncio.Lock:
        return self._locks.setdefault(name, asyncio.Lock())

    async def _archive(self, name: str) -> str:
        """The file name. Raises LoadFailed."""
        if (url := self._url_of_default(name)) is not None:
            return url
        urls = {stem(url): url for url in await asyncio.to_thread(self._names)}
        if name not in urls:
            raise LoadFailed(
                f"failed to load '{name}', failed to poll from model repository: no archive of the model store has "
                f"this name{nearest(name, urls)}"
            )
        return urls[name]


def refuse(name: str, parameter: str) -> NoReturn:
    """Raises InvalidRequest for a parameter that changes what is loaded."""
    raise InvalidRequest(
        f"failed to load '{shown(name)}', load parameter '{shown(parameter)}': an archive of the model store is loaded "
        "with the settings in it; leave the parameters out"
    )


def stem(url: str) -> str:
    """The name of an archive's file without the suffix."""
    return next((url.removesuffix(suffix) for suffix in SUFFIXES if url.endswith(suffix)), url)
