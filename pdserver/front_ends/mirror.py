"""What a front end has of the main process's state: copies that the main process keeps up to date."""

from __future__ import annotations

import os
from collections.abc import Mapping

from pdserver.dialects.oip.repository import IndexEntry, LoadParameters
from pdserver.dialects.oip.shared_memory import Region, Regions
from pdserver.dialects.tensorflow.control import NoControl, unknown_label
from pdserver.engine.catalogue import Catalogue
from pdserver.engine.names import Model
from pdserver.errors import Unsupported
from pdserver.front_ends.messages import News, NoRegion, RegionNews
from pdserver.memory_file import MemoryFile

_ELSEWHERE = Unsupported("the main process answers this")


class KnownNames:
    """A `Repository` that knows names. All else is asked of the main process, by calls that are passed on."""

    def __init__(self) -> None:
        self.names: frozenset[str] = frozenset()

    def known(self) -> frozenset[str]:
        return self.names

    async def index(self) -> list[IndexEntry]:
        raise _ELSEWHERE

    async def load(self, name: str, parameters: LoadParameters) -> None:
        raise _ELSEWHERE

    async def unload(self, name: str, parameters: LoadParameters) -> None:
        raise _ELSEWHERE


class Labels(NoControl):
    """A `Control` that knows labels."""

    def __init__(self) -> None:
        self.given: Mapping[str, Mapping[str, int]] = {}

    def version_of(self, model: str, label: str) -> str:
        version = self.given.get(model, {}).get(label)
        if version is None:
            raise unknown_label(label)
        return str(version)


class Mirror:
    """All of it."""

    def __init__(self) -> None:
        self.catalogue = Catalogue()
        self.repository = KnownNames()
        self.control = Labels()
        self.regions = Regions(enabled=False)

    def take(self, news: News | RegionNews | NoRegion, file: MemoryFile | None) -> None:
        """Take over what has changed; `file` came with a region, unless it was lost on the way."""
        if isinstance(news, News):
            self._take(news)
        elif isinstance(news, NoRegion):
            self.regions.forget(news.name)
        elif file is not None:
            self.regions.put(Region(news.name, news.key, news.offset, news.byte_size, os.dup(file.fd)))
        else:
            self.regions.on_change(news.name, None)

    def _take(self, news: News) -> None:
        catalogue = self.catalogue
        catalogue.starting, catalogue.stopping, catalogue.missing = news.starting, news.stopping, news.missing
        catalogue.leaving = {served.spec.ref: served for served in news.leaving}
        self.repository.names, self.control.given = frozenset(news.known), news.labels
        for name, model in news.models.items():
            catalogue.put(name, None if model is None else Model(name, model.versions, model.default))
