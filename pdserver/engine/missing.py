"""What was wanted from the start and could not be registered, and why."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator

from pdserver.configuration.models_to_load import ModelToLoad
from pdserver.engine.catalogue import Catalogue

_log = logging.getLogger("pdserver.engine")


class Missing:
    """By model and version, or by the archive or the name when these are not known. The catalogue shows it."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._models: dict[str, ModelToLoad] = {}

    def __iter__(self) -> Iterator[ModelToLoad]:
        return iter(self._models.values())

    def add(self, model: ModelToLoad, reason: str) -> None:
        _log.error("%s can't be served: %s", model.url, reason)
        key = f"{model.name}/{model.version}" if model.version is not None else model.url
        self._models[key] = model
        self._catalogue.missing[key] = reason
        self._catalogue.on_change()

    def forget(self, keys: Iterable[str]) -> None:
        for key in keys:
            self._models.pop(key, None)
            self._catalogue.missing.pop(key, None)
        self._catalogue.on_change()

    def named(self, name: str, version: str | None) -> list[str]:
        """The keys of what goes by this name, and has this version, if one is given."""
        return [
            key
            for key, model in self._models.items()
            if name in (model.name, model.url) and version in (None, model.version)
        ]
