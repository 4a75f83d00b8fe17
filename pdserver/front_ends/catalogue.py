"""Tells the front ends what the catalogue has, and waits until all of them have seen it."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import msgspec

from pdserver.dialects.oip.repository import Repository
from pdserver.dialects.tensorflow.control import Control
from pdserver.engine.catalogue import Catalogue, ServedModel, ServedVersion
from pdserver.front_ends.messages import ModelNews, News

_log = logging.getLogger("pdserver.front_ends")
_LONGEST_SECONDS = 5.0
"""How long an answer waits for front ends that have not seen what it is about."""


class Reader(Protocol):
    """A front end, as far as its copy of the catalogue goes."""

    seen: int
    """The number of the last news that it has taken over."""

    def say(self, message: News) -> None: ...


class Shown:
    """The catalogue as the front ends have it, or are about to."""

    def __init__(
        self, catalogue: Catalogue, repository: Repository, control: Control, readers: Callable[[], Iterable[Reader]]
    ) -> None:
        self._catalogue = catalogue
        self._repository = repository
        self._control = control
        self._readers = readers
        self._revision = 0
        self._models: dict[str, ServedModel] = {}
        self._rest = self._the_rest()
        self._due = False
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []
        catalogue.on_change = self._changed

    def all_to(self, reader: Reader) -> None:
        """Tell a new front end everything."""
        self._tell()
        reader.say(self._news(self._models))

    def seen(self) -> None:
        """A front end has seen more than before, or is gone."""
        behind = min((reader.seen for reader in self._readers()), default=self._revision)
        for revision, future in self._waiting:
            if revision <= behind and not future.done():
                future.set_result(None)
        self._waiting = [each for each in self._waiting if each[0] > behind]

    async def by_all(self) -> None:
        """Wait until all front ends have seen the catalogue as it is now."""
        self._tell()
        if all(reader.seen >= self._revision for reader in self._readers()):
            return
        seen: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((self._revision, seen))
        try:
            await asyncio.wait_for(seen, _LONGEST_SECONDS)
        except asyncio.TimeoutError:
            _log.warning("a front end has not taken over what changed within %g s", _LONGEST_SECONDS)

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
            for reader in self._readers():
                reader.say(news)

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
