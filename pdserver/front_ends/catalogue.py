"""Tells the front ends what the catalogue has and which regions of shared memory there are, and waits until all of them
have seen it."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import msgspec

from pdserver.dialects.oip.repository import Repository
from pdserver.dialects.oip.shared_memory import Region, Regions
from pdserver.dialects.tensorflow.control import Control
from pdserver.engine.catalogue import Catalogue, ServedModel, ServedVersion
from pdserver.front_ends.messages import ModelNews, News, NoRegion, RegionNews

_log = logging.getLogger("pdserver.front_ends")
_LONGEST_SECONDS = 5.0
"""How long an answer waits for front ends that have not seen what it is about."""


class Reader(Protocol):
    """A front end, as far as its copy of the catalogue goes."""

    seen: int
    """The number of the last news that it has taken over; -1: none yet."""

    def say(self, message: News | RegionNews | NoRegion, fds: Sequence[int] = ()) -> None: ...


class Shown:
    """The catalogue as the front ends have it, or are about to."""

    def __init__(self, catalogue: Catalogue, repository: Repository, control: Control, regions: Regions) -> None:
        self.readers: dict[Reader, set[str]] = {}
        """Each with the regions that it has."""
        self._catalogue = catalogue
        self._repository = repository
        self._control = control
        self._regions = regions
        self._revision = 0
        self._models: dict[str, ServedModel] = {}
        self._rest = self._the_rest()
        self._due = False
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []
        catalogue.on_change = self._changed
        regions.on_change = self._region_changed
        regions.on_leaving = self._region_leaves

    def add(self, reader: Reader) -> None:
        """Tell a new front end everything, and from now on what changes."""
        self._tell()
        self.readers[reader] = set()
        for region in self._regions.all():
            self._show(reader, region)
        reader.say(self._news(self._models))

    def remove(self, reader: Reader) -> None:
        """It is gone."""
        for name in self.readers.pop(reader):
            self._regions.release(name)
        self.seen()

    def let_go(self, reader: Reader, region: str) -> None:
        """It has let a region go."""
        self.readers[reader].remove(region)
        self._regions.release(region)

    def seen(self) -> None:
        """A front end has seen more than before, or is gone."""
        behind = self._behind()
        for revision, future in self._waiting:
            if revision <= behind and not future.done():
                future.set_result(None)
        self._waiting = [each for each in self._waiting if each[0] > behind]

    async def by_all(self) -> None:
        """Wait until all front ends have seen the catalogue as it is now."""
        self._tell()
        if self._behind() >= self._revision:
            return
        seen: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((self._revision, seen))
        try:
            await asyncio.wait_for(seen, _LONGEST_SECONDS)
        except asyncio.TimeoutError:
            _log.warning("a front end has not taken over what changed within %g s", _LONGEST_SECONDS)

    def _behind(self) -> int:
        """What all have seen. One that is just starting accepts no clients before it has seen everything once."""
        return min((reader.seen for reader in self.readers if reader.seen >= 0), default=self._revision)

    def _changed(self) -> None:
        if not self._due:
            self._due = True
            asyncio.get_running_loop().call_soon(self._tell)

    def _tell(self) -> None:
        """Tell what has changed since it was last told."""
        self._due = False
        now, before, rest = {model.name: model for model in self._catalogue}, self._models, self._the_rest()
        changed = [name for name in now.keys() | before.keys() if now.get(name) is not before.get(name)]
        if changed or rest != self._rest:
            self._revision += 1
            self._models, self._rest = now, rest
            news = self._news(changed)
            for reader in self.readers:
                reader.say(news)

    def _region_changed(self, name: str, region: Region | None) -> None:
        if region is not None:
            self._revision += 1
            for reader in self.readers:
                self._show(reader, region)

    def _show(self, reader: Reader, region: Region) -> None:
        self.readers[reader].add(region.name)
        self._regions.hold(region.name)
        news = RegionNews(self._revision, region.name, region.key, region.offset, region.byte_size)
        reader.say(news, (region.fd,))

    def _region_leaves(self, name: str) -> None:
        self._revision += 1
        for reader in self.readers:
            reader.say(NoRegion(self._revision, name))

    def _news(self, names: Iterable[str]) -> News:
        models = {name: _told(self._models[name]) if name in self._models else None for name in names}
        return News(self._revision, models, *self._rest)

    def _the_rest(self) -> tuple[Any, ...]:
        """What follows the models in `News`."""
        catalogue = self._catalogue
        leaving = list(map(_without_key, catalogue.leaving.values()))
        labels = {model: dict(labels) for model, labels in self._control.labels().items()}
        known = sorted(self._repository.known())
        return catalogue.starting, catalogue.stopping, dict(catalogue.missing), leaving, known, labels


def _told(model: ServedModel) -> ModelNews:
    versions = {version: _without_key(served) for version, served in model.versions.items()}
    return ModelNews(versions, model.default_version)


def _without_key(served: ServedVersion) -> ServedVersion:
    if not served.spec.key:
        return served
    return msgspec.structs.replace(served, spec=dataclasses.replace(served.spec, key=b""))
