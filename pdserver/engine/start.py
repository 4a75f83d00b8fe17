"""The start: what is wanted is registered side by side, and each name gets its default version."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Protocol

from pdserver.configuration.model import ModelSpec
from pdserver.configuration.models_to_load import ModelToLoad
from pdserver.engine.claims import Claims
from pdserver.engine.missing import Missing
from pdserver.engine.pipeline.signatures import NodeMissing
from pdserver.engine.registry import Registry
from pdserver.errors import PdError
from pdserver.types import ModelRef

_log = logging.getLogger("pdserver.engine")


class Register(Protocol):
    async def __call__(self, model: ModelToLoad, *, claim: Callable[[ModelRef], Awaitable[None]]) -> ModelSpec:
        """`Engine.register` for what is wanted from the start."""


class Start:
    """Of several versions of a name, the default is the one that is said to be, else the first of them here, whichever
    was unpacked first. Of several archives of one name and version, the first is served."""

    def __init__(self, models: Sequence[ModelToLoad], register: Register, registry: Registry, missing: Missing) -> None:
        self._models = models
        self._register = register
        self._registry = registry
        self._missing = missing
        self._claims = Claims(len(models))
        self._defaults: dict[str, tuple[bool, int]] = {}
        """By name, the rank of the version that is the default now: the lowest wins."""
        self._later: dict[int, NodeMissing] = {}
        """Pipelines some of whose models are not there yet."""

    async def run(self, on_progress: Callable[[str], None]) -> None:
        """Until each serves or has shown that it can't; `on_progress` is told of each."""
        models, later = self._models, self._later
        done = itertools.count(1)

        async def load(place: int) -> None:
            try:
                await self._load(place)
            except NodeMissing as error:
                later[place] = error
                return
            later.pop(place, None)
            on_progress(f"{next(done)} of {len(models)} models: {models[place].name or models[place].url}")

        waiting: Sequence[int] = range(len(models))
        while waiting:
            await asyncio.gather(*map(load, waiting))
            if len(later) == len(waiting):
                break
            waiting = list(later)
        for place, error in later.items():
            self._missing.add(models[place], str(error))

    async def _load(self, place: int) -> None:
        """Raises NodeMissing."""
        model, claims = self._models[place], self._claims
        try:
            spec = await self._register(model, claim=partial(claims.claim, place))
            claims.settle(place, has_it=True)
        except NodeMissing:
            raise
        except PdError as error:
            self._missing.add(model, str(error))
            return
        finally:
            claims.settle(place, has_it=False)
        rank = (not model.default, place)
        try:
            served = self._registry.resolve(spec.name, spec.version)
            if rank <= self._defaults.setdefault(spec.name, rank):
                self._defaults[spec.name] = rank
                self._registry.set_default(spec.name, spec.version)
            await served.settled()
        except PdError as error:
            _log.error("%s can't be served: %s", model.url, error)
