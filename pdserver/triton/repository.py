"""Implements the keys `model_repository`, `model_control_mode`, `load_model` and similar ones."""

from __future__ import annotations

import asyncio
from pathlib import Path

from pdserver.configuration.server import Config
from pdserver.dialects.oip.repository import EXPLICIT, Repository
from pdserver.engine.engine import Engine
from pdserver.store.archives import Store
from pdserver.triton.control import ModelControl
from pdserver.triton.folders import Folders
from pdserver.triton.modes import Poll, load_named, report
from pdserver.triton.store_repository import StoreRepository

_POLL = "poll"
_ALL = ("*",)


class ModelRepository:
    """`repository` is what clients see: the models of the repository, if there is one, and those of the store.

    `run_directory` belongs to this server alone.
    """

    def __init__(self, config: Config, engine: Engine, store: Store, run_directory: Path) -> None:
        self._config = config
        self._engine = engine
        self._poll: Poll | None = None
        self.repository: Repository = StoreRepository(engine, store.names)
        if config.model_repository:
            self._folders = Folders(config.model_repository, store)
            self._control = ModelControl(
                engine,
                self._folders,
                self.repository,
                run_directory / "loaded",
                allow_unsafe=config.allow_unsafe_models,
            )
            self.repository = self._control
            if config.model_control_mode == _POLL:
                self._poll = Poll(self._control, self._folders, config.repository_poll_seconds)

    async def load(self) -> None:
        """Load what is served from the start. Raises LoadFailed if that fails and `exit_on_error` is set; Unavailable
        if a folder can't be read."""
        config = self._config
        if not config.model_repository:
            return
        if self._poll is not None:
            problems = await self._poll.begin()
        elif config.model_control_mode == EXPLICIT and config.load_model != _ALL:
            problems = await load_named(self._control, config.load_model)
        else:
            problems = await load_named(self._control, await asyncio.to_thread(self._folders.models))
        report(problems, self._engine, exit_on_error=config.exit_on_error)

    async def follow(self) -> None:
        """With polling, load what changes, until it is cancelled."""
        if self._poll is not None and self._config.repository_poll_seconds:
            await self._poll.run()
