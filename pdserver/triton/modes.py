"""Triton's model control modes, which say when the models of a repository are loaded.

none      all at the start
poll      all at the start; then the folders are checked regularly, and changed models are loaded again
explicit  at the start those that the operator names, later those that clients load
"""

from __future__ import annotations

import asyncio
import graphlib
import logging
import time
from collections.abc import Collection, Mapping
from typing import NamedTuple

from pdserver.configuration.models_to_load import ModelToLoad
from pdserver.engine.engine import Engine
from pdserver.errors import LoadFailed, PdError, Unavailable
from pdserver.store.watching import Settling
from pdserver.triton.control import ModelControl
from pdserver.triton.ensembles import models_of
from pdserver.triton.folders import Folders
from pdserver.triton.model_folder import ModelFolder

_log = logging.getLogger("pdserver.triton")
_SETTLE_SECONDS = 1.0
"""A changed folder is checked again after this time, and loaded once it has not changed further."""
_LONGEST_RETRY_SECONDS = 600.0


class Unreadable(NamedTuple):
    """A folder that is no model."""

    reason: str
    twice: bool
    """Whether two folders have this name, so that nobody can tell which is meant."""


Look = ModelFolder | Unreadable | None
"""A folder as it was found, or None if it is not there."""


async def load_named(control: ModelControl, names: Collection[str]) -> dict[str, str]:
    """Load these models concurrently. Returns those that can't be loaded, and why."""
    results = await asyncio.gather(*(_problem(control, name) for name in names))
    return {name: problem for name, problem in zip(names, results, strict=True) if problem}


async def _problem(control: ModelControl, name: str) -> str:
    try:
        await control.load(name, {})
    except PdError as error:
        return str(error)
    return ""


def report(problems: Mapping[str, str], engine: Engine, *, exit_on_error: bool) -> None:
    """Report what could not be loaded at the start in the catalogue's health, or raise it as LoadFailed."""
    if problems and exit_on_error:
        advice = "failed to load all models; with exit_on_error=false, the others are served"
        raise LoadFailed("\n".join([*problems.values(), advice]))
    for name, problem in problems.items():
        engine.miss(ModelToLoad(name, name), problem)


class Poll:
    """Checks the folders every `seconds`. A model that can't be loaded is tried again when it changes, and after a
    growing delay."""

    def __init__(self, control: ModelControl, folders: Folders, seconds: float) -> None:
        self._control = control
        self._folders = folders
        self._seconds = seconds
        self._settling: Settling[Look] = Settling()
        self._retry: dict[str, tuple[float, float]] = {}
        """For each model that couldn't be loaded: when to try again, and how long to wait after that."""

    async def begin(self) -> dict[str, str]:
        """Load all models. Returns those that failed, and why. Raises Unavailable if a folder can't be read."""
        self._settling.seen = looks = await asyncio.to_thread(self._look)
        return await self._take(looks)

    async def run(self) -> None:
        """Check regularly, until it is cancelled."""
        settled = True
        while True:
            await asyncio.sleep(self._seconds if settled else min(self._seconds, _SETTLE_SECONDS))
            try:
                settled = await self.once()
            except Unavailable as error:
                _log.error("%s; what is loaded stays so", error)

    async def once(self) -> bool:
        """Load the models that have changed, but not since the last check. Returns whether no others have changed."""
        now = time.monotonic()
        due = [name for name, (when, _) in self._retry.items() if when <= now]
        still, settled = self._settling.look(await asyncio.to_thread(self._look), due)
        await self._take(still)
        return settled

    def _look(self) -> dict[str, Look]:
        looks: dict[str, Look] = {}
        models = self._folders.models()
        for name, folders in models.items():
            try:
                looks[name] = self._folders.find(name, models=models)
            except LoadFailed as error:
                looks[name] = Unreadable(str(error), len(folders) > 1)
        return looks

    async def _take(self, looks: Mapping[str, Look]) -> dict[str, str]:
        """An ensemble after the models that it uses."""
        ensembles = {name: look for name, look in looks.items() if isinstance(look, ModelFolder) and look.is_ensemble}
        models = [name for name in looks if name not in ensembles]
        results = await asyncio.gather(*(self._take_one(name, looks[name]) for name in models))
        problems = dict(zip(models, results, strict=True))
        for name in _in_order(ensembles):
            problems[name] = await self._take_one(name, ensembles[name])
        return {name: problems[name] for name in looks if problems[name]}

    async def _take_one(self, name: str, look: Look) -> str:
        """Load or unload one model. Returns why it can't be loaded, or ""."""
        _, wait = self._retry.pop(name, (0.0, self._seconds))
        if look is None:
            self._settling.taken.pop(name, None)
            await self._control.unload(name, {})
            return ""
        self._settling.taken[name] = look
        try:
            if isinstance(look, Unreadable):
                if look.twice:
                    await self._control.unload(name, {})
                raise self._control.unreadable(name, look.reason)
            await self._control.admit(look)
        except PdError as error:
            _log.error("%s", error)
            self._retry[name] = (time.monotonic() + wait, min(2 * wait, _LONGEST_RETRY_SECONDS))
            return str(error)
        return ""


def _in_order(ensembles: Mapping[str, ModelFolder]) -> list[str]:
    """Each after those that it uses. In any order if they use each other: none of them can be served then."""
    uses = {name: dict(models_of(folder.config)).keys() & ensembles.keys() for name, folder in ensembles.items()}
    try:
        return list(graphlib.TopologicalSorter(uses).static_order())
    except graphlib.CycleError:
        return list(ensembles)
