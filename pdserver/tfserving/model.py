"""The versions of one model of the configuration: found in its base path, loaded and unloaded by policy."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pdserver.configuration.models_to_load import ModelToLoad
from pdserver.dialects.tensorflow.control import State
from pdserver.dialects.tensorflow.versions import number
from pdserver.engine.engine import Engine
from pdserver.errors import ModelNotFound, PdError, Unavailable
from pdserver.store.archives import Store
from pdserver.store.watching import Settling
from pdserver.tfserving.base_paths import SETTLE_SECONDS, are_young, versions_in
from pdserver.tfserving.batching import Batching
from pdserver.tfserving.config import WantedModel
from pdserver.tfserving.policy import steps
from pdserver.tfserving.source import VersionFolder, VersionSource
from pdserver.tfserving.version import Version

_log = logging.getLogger("pdserver.tfserving")
_MAX_ENDED = 100
"""So many versions that have ended are still told of."""


class Loading:
    """How versions are loaded: the same for all models."""

    def __init__(
        self,
        engine: Engine,
        store: Store,
        batching: Callable[[Path], Batching],
        iterations: int,
        *,
        at_once: int,
        max_retries: int,
        retry_seconds: float,
        resource_preserving: bool,
    ) -> None:
        self.engine = engine
        self.store = store
        self.batching = batching
        self.iterations = iterations
        """How often each warm-up record is asked."""
        self.slots = asyncio.Semaphore(at_once)
        self.max_retries = max_retries
        self.retry_seconds = retry_seconds
        self.resource_preserving = resource_preserving


class TfModel:
    """One name of the configuration. It is kept when the configuration drops the name, which may come back."""

    def __init__(self, name: str, loading: Loading) -> None:
        self.versions: dict[int, Version] = {}
        """All that were ever wanted, but for the oldest."""
        self._name = name
        self._loading = loading
        self._engine = loading.engine
        self._wanted: WantedModel | None = None
        self._settling: Settling[VersionFolder] = Settling()
        self._begins = False
        """Whether the base path is looked at for the first time."""
        self._aspired: Mapping[int, VersionFolder] = {}
        """What is to be served."""
        self.problem = ""
        """What is wrong with the base path."""

    def available(self) -> set[int]:
        return {each for each, version in self.versions.items() if version.state is State.AVAILABLE}

    async def change(self, wanted: WantedModel | None) -> None:
        """Begin to serve what the configuration says; None: nothing."""
        before, self._wanted = self._wanted, wanted
        if wanted is None:
            self._settling = Settling()
            self._tell("")
        elif before is None or before.base_path != wanted.base_path:
            self._settling = Settling()
            await self._begin(wanted)
            return
        self._aspire()

    async def _begin(self, wanted: WantedModel) -> None:
        """Take what is in the base path, unless somebody is changing it just now."""
        self._begins = True
        try:
            self._settling.seen = await self._found(wanted)
            if await asyncio.to_thread(are_young, self._settling.seen.values()):
                await asyncio.sleep(SETTLE_SECONDS)
            _take(self._settling, await self._found(wanted))
        except Unavailable:
            return
        finally:
            self._begins = False
        self._aspire()

    async def look(self) -> bool:
        """Look at the base path, and begin what follows. Returns whether nothing waits for a second look."""
        wanted, settling = self._wanted, self._settling
        if wanted is None or self._begins:
            return not self._begins
        try:
            found = await self._found(wanted)
        except Unavailable:
            return True
        if settling is not self._settling:
            return False  # there is another base path by now
        changed, settled = _take(settling, found)
        if changed:
            self._aspire()
        return settled

    async def _found(self, wanted: WantedModel) -> dict[str, VersionFolder]:
        """What is in the base path. Raises Unavailable if it can't be read, which is told to the operator, too."""
        try:
            found = await asyncio.to_thread(versions_in, self._name, wanted.base_path)
        except Unavailable as error:
            self._tell(str(error))
            raise
        self._tell("" if found else _no_versions(self._name, wanted.base_path))
        return found

    def _tell(self, problem: str) -> None:
        """Tell the operator what is wrong with the base path, once."""
        if problem and problem != self.problem:
            self._miss(self._name, problem)
        elif not problem:
            self._engine.dismiss(self._name)
        self.problem = problem

    def _miss(self, what: str, problem: str) -> None:
        """Log it. The server is not healthy with it, unless another version serves."""
        if self.available():
            _log.error("%s can't be served: %s", what, problem)
        else:
            self._engine.miss(ModelToLoad(what), problem)

    def _aspire(self) -> None:
        """Find out what is wanted of what there is, and begin it."""
        folders = {int(key): folder for key, folder in self._settling.taken.items()}
        wanted = self._wanted.choice.of(folders) if self._wanted else ()
        self._aspired = {each: folders[each] for each in wanted}
        for each, folder in self._aspired.items():
            version = self.versions.get(each)
            if version is None or version.begins_anew(folder):
                self.versions[each] = Version(folder)
            elif version.is_another(folder):
                self._begin_task(self._replace(version, folder))
            else:
                version.want(folder)
        for each in self.versions.keys() - self._aspired.keys():
            self.versions[each].drop()
            self._engine.dismiss(self.versions[each].folder.url)
        self._advance()

    def _advance(self) -> None:
        """Begin what can be begun now."""
        states = {each: version.state for each, version in self.versions.items()}
        load, unload = steps(self._aspired, states, resource_preserving=self._loading.resource_preserving)
        for each in unload:
            self.versions[each].state = State.UNLOADING
        self._choose_default()
        for each in unload:
            self._begin_task(self._unload(self.versions[each]))
        for each in load:
            self.versions[each].state = State.LOADING
            self._begin_task(self._load(self.versions[each]))

    def _begin_task(self, work: Coroutine[Any, Any, None]) -> None:
        self._engine.changes.begin(work, f"versions of {self._name}")

    async def _load(self, version: Version) -> None:
        """Load a version, and try again as often as may be."""
        loaded = False
        try:
            for retries in range(self._loading.max_retries, -1, -1):
                version.error = await self._register(version.folder)
                version.tried.set()
                loaded = version.error is None
                if loaded or not retries or not await self._is_wanted_later(version):
                    break
        finally:
            version.state = State.AVAILABLE if loaded else State.END
            version.tried.set()
        self._aspire()

    async def _register(self, folder: VersionFolder, *, replace: bool = False) -> PdError | None:
        """Returns why the version can't be served."""
        loading, engine = self._loading, self._engine
        try:
            async with loading.slots:
                await engine.register(
                    folder.url,
                    source=VersionSource(folder, loading.store, loading.batching, loading.iterations),
                    name=self._name,
                    version=folder.version,
                    synchronous=True,
                    replace=replace,
                )
        except PdError as error:
            if not engine.changes.stopped:
                self._miss(folder.url, str(error))
            return error
        return None

    async def _is_wanted_later(self, version: Version) -> bool:
        """Wait for the time of the next try, or until the folder changes. Returns whether there is to be one."""
        version.news.clear()
        try:
            with self._engine.changes.interruptible():
                await asyncio.wait_for(version.news.wait(), self._loading.retry_seconds)
        except asyncio.TimeoutError:
            return True
        except Unavailable:
            return False
        return version.wanted

    async def _replace(self, version: Version, folder: VersionFolder) -> None:
        """Another base path has another model for a version that is served, which goes on until that is loaded."""
        version.folder = folder
        version.error = await self._register(folder, replace=True)

    async def _unload(self, version: Version) -> None:
        with suppress(PdError):  # somebody else has unloaded it
            await self._engine.unregister(self._name, version.folder.version)
            _log.info("unloaded %s", version.folder.url)
        version.state = State.END
        self._forget_ended()
        self._aspire()

    def _forget_ended(self) -> None:
        ended = [each for each, version in self.versions.items() if version.state is State.END and not version.wanted]
        for each in sorted(ended)[:-_MAX_ENDED]:
            del self.versions[each]

    def _choose_default(self) -> None:
        """The highest version that serves and is to do so. The engine lets no default go while there are others."""
        try:
            model = self._engine.catalogue.model(self._name)
        except ModelNotFound:
            return
        best = max(model.versions, key=self._rank)
        if best != model.default_version:
            self._engine.set_default(self._name, best)

    def _rank(self, name: str) -> tuple[bool, bool, bool, int]:
        each = number(name)
        if each is None or each not in self.versions:  # somebody else's
            return False, True, False, -1
        state = self.versions[each].state
        return state is State.AVAILABLE, state is not State.UNLOADING, each in self._aspired, each


def _no_versions(name: str, base_path: Path) -> str:
    known = f"No versions of servable {name} found under base path {base_path}"
    return f"{known}: put each into a folder with its number for a name, such as {base_path / '1'}"


def _take(settling: Settling[VersionFolder], found: Mapping[str, VersionFolder]) -> tuple[bool, bool]:
    """Returns whether anything was taken, and whether nothing waits for another look."""
    still, settled = settling.look(found)
    for key, folder in still.items():
        if folder is None:
            del settling.taken[key]
        else:
            settling.taken[key] = folder
    return bool(still), settled


async def failures(versions: Iterable[Version]) -> dict[str, PdError]:
    """Wait until each version serves, or has failed once. Returns why, by URL."""
    begun = list(versions)
    await asyncio.gather(*(version.tried.wait() for version in begun))
    return {version.folder.url: version.error for version in begun if version.error is not None}
