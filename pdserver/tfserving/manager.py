"""Serves what TensorFlow Serving's model_config_list says: at the start, when its files change, when clients reload."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pdserver.configuration.server import Config
from pdserver.configuration.sources import AllowedUrls, parse_url
from pdserver.dialects.tensorflow.control import State, VersionStatus, unknown_label
from pdserver.engine.changes import carried
from pdserver.engine.engine import Engine
from pdserver.errors import ConfigError, Forbidden, InvalidRequest, Kind, LoadFailed, PdError, Unavailable
from pdserver.formats.values import listed, shown
from pdserver.store.archives import Store
from pdserver.tfserving import batching, labels
from pdserver.tfserving.base_paths import SETTLE_SECONDS, versions_in
from pdserver.tfserving.batching import Batching
from pdserver.tfserving.config import WantedModel, WantedModels, ignored, parsed, texts, wanted_by
from pdserver.tfserving.model import Loading, TfModel, failures
from pdserver.tfserving.policy import RESOURCE_PRESERVING
from pdserver.tfserving.version import Version

_log = logging.getLogger("pdserver.tfserving")
_CALL = "HandleReloadConfigRequest"
_ROOT_AND_ONE = 2
"""The parts of a path like /models."""


class ServedConfig:
    """A Control of the models that the key `tensorflow_model_config` names."""

    def __init__(self, config: Config, path: Path, engine: Engine, store: Store) -> None:
        self.changes = engine.changes
        self._config = config
        self._path = path
        self._loading = Loading(
            engine,
            store,
            _batching(config),
            config.tensorflow_num_request_iterations_for_warmup if config.tensorflow_enable_model_warmup else 0,
            at_once=config.tensorflow_num_load_threads,
            max_retries=config.tensorflow_max_num_load_retries,
            retry_seconds=config.tensorflow_load_retry_interval_seconds,
            resource_preserving=config.tensorflow_aspired_version_policy == RESOURCE_PRESERVING,
        )
        self._lock = asyncio.Lock()
        """Held by who changes `_wanted`."""
        self._wanted: WantedModels = {}
        self._models: dict[str, TfModel] = {}
        """All that are wanted, or had a version."""
        self._texts: dict[Path, str] = {}
        """The files as they were when they were followed last."""
        self._refusal = ""
        """Why the files are not followed as they are now."""
        self._places: tuple[Path, ...] = ()
        """Folders in which the operator has base paths."""

    # Control

    def version_of(self, model: str, label: str) -> str:
        wanted = self._wanted.get(model)
        if wanted is None or label not in wanted.labels:
            raise unknown_label(label)
        return str(wanted.labels[label])

    def labels(self) -> Mapping[str, Mapping[str, int]]:
        return {name: wanted.labels for name, wanted in self._wanted.items() if wanted.labels}

    def statuses(self, model: str) -> Sequence[VersionStatus]:
        known = self._models.get(model)
        versions = sorted(known.versions.items()) if known else ()
        return [version.status for _, version in versions if version.state is not State.AVAILABLE]

    @carried
    async def reload(self, config: Any) -> None:
        """Raises ConfigError, Conflict or Forbidden for what changes nothing; LoadFailed, of the first one's kind, if
        new versions can't be served, while the others are."""
        if not self._config.enable_model_api:
            raise Forbidden(f"{_CALL}: the operator has closed it (enable_model_api=false)")
        wanted = await asyncio.to_thread(_wanted_by_client, config, self._places, self._config.allowed_urls)
        for warning in ignored(config):
            _log.warning("%s: %s", _CALL, warning)
        before = {name: model.base_path for name, model in self._wanted.items()}
        failed = await failures(await self._apply(wanted))
        problems = {url: str(error) for url, error in failed.items()}
        for name, model in wanted.items():
            known = self._models.get(name)  # another reload may have come since
            if known is not None and known.problem and before.get(name) != model.base_path:
                problems[name] = known.problem
        if problems:
            told = "; ".join(f"{what}: {problem}" for what, problem in problems.items())
            kind = next((error.kind for error in failed.values()), Kind.NOT_FOUND)
            raise LoadFailed(f"{len(problems)} servable(s) did not become available: {told}", kind)

    # The server's life

    async def load(self) -> None:
        """Load what is served from the start: returns when each version serves, or has failed once. Raises ConfigError
        or Conflict for a configuration that can't be followed."""
        begun = await self._follow_texts(await asyncio.to_thread(texts, self._path))
        await failures(begun)

    async def follow(self) -> None:
        """Follow changes of the base paths and of the configuration's files, until it is cancelled."""
        await asyncio.gather(self._follow_base_paths(), self._follow_files())

    async def _follow_base_paths(self) -> None:
        seconds, settled = self._config.tensorflow_file_system_poll_seconds, False
        while seconds > 0 or (seconds == 0 and not settled):  # what is copied during the start is waited for
            await asyncio.sleep(SETTLE_SECONDS if not settled and not 0 < seconds < SETTLE_SECONDS else seconds)
            settled = all(await asyncio.gather(*(model.look() for model in list(self._models.values()))))

    async def _follow_files(self) -> None:
        seconds = self._config.tensorflow_model_config_poll_seconds
        while seconds:
            await asyncio.sleep(seconds)
            try:
                found = await asyncio.to_thread(texts, self._path)
                if found != self._texts or self._refusal:
                    await self._follow_texts(found)
                    _log.info("%s has changed: it serves %s", self._path, listed(self._wanted))
                self._refusal = ""
            except PdError as error:
                if str(error) != self._refusal:
                    _log.error("%s; what is served stays so", error)
                self._refusal = str(error)

    async def _follow_texts(self, found: dict[Path, str]) -> list[Version]:
        """Raises ConfigError and Conflict, and then changes nothing."""
        self._texts = found
        wanted, warnings = await asyncio.to_thread(parsed, found)
        begun = await self._apply(wanted)
        for warning in warnings:
            _log.warning("%s", warning)
        self._places = tuple({_beside(model.base_path.resolve()) for model in wanted.values()})
        return begun

    async def _apply(self, wanted: WantedModels) -> list[Version]:
        """Begin to serve these models, and no others of this configuration. Returns the versions that are new."""
        async with self._lock:
            await self._check_labels(wanted)
            self._wanted = wanted
            for name in self._models.keys() | wanted.keys():
                self._models.setdefault(name, TfModel(name, self._loading))
            before = self._versions()
            await asyncio.gather(*(model.change(wanted.get(name)) for name, model in self._models.items()))
            for name in [name for name, model in self._models.items() if name not in wanted and not model.versions]:
                del self._models[name]  # clients may name any
            return [version for version in self._versions() - before if version.wanted]

    def _versions(self) -> set[Version]:
        return {version for model in self._models.values() for version in model.versions.values()}

    async def _check_labels(self, wanted: WantedModels) -> None:
        """Raises Conflict."""
        for name, model in wanted.items():
            if not model.labels:
                continue
            try:
                found = await asyncio.to_thread(versions_in, name, model.base_path)
            except Unavailable:
                continue  # it will be known when the base path can be read
            there = model.choice.of([int(each) for each in found])
            before = self._wanted.get(name)
            known = before is not None and before.base_path == model.base_path
            labels.check(
                name,
                model.labels,
                before.labels if before else {},
                there & self._models[name].available() if known else there,
                there,
                allow_new=self._config.tensorflow_allow_version_labels_for_unavailable_models,
            )


def _batching(config: Config) -> Callable[[Path], Batching]:
    """What is said of a version's batches, by its folder. Raises ConfigError."""
    if not config.tensorflow_enable_batching:
        return lambda _: batching.UNASKED
    path = config.tensorflow_batching_parameters
    common = batching.read(path) if path is not None else batching.settings_of("", "batching parameters")
    for warning in common.warnings:
        _log.warning("%s", warning)
    if config.tensorflow_enable_per_model_batching_parameters:
        return lambda folder: batching.of_version(folder, common)
    return lambda _: common


def _wanted_by_client(config: Any, places: Sequence[Path], allowed: AllowedUrls) -> WantedModels:
    """What a reload asks for. It may have many models, so this may take long. Raises InvalidRequest, Forbidden."""
    try:
        wanted = wanted_by(config, _CALL)
    except ConfigError as error:
        raise InvalidRequest(str(error)) from None
    for given in config.model_config_list.config:
        if not Path(given.base_path).is_absolute():
            said = f"{_CALL}: model {shown(given.name)}: base_path: {shown(given.base_path)}"
            raise InvalidRequest(f"{said}: expected an absolute path: clients don't know where the server began")
    for model in wanted.values():
        _check_place(model, places, allowed)
    return wanted


def _beside(base_path: Path) -> Path:
    """The folder in which clients may name base paths, if the operator names this one: the one above it, but never all
    of the machine's."""
    return base_path if len(base_path.parts) <= _ROOT_AND_ONE else base_path.parent


def _check_place(model: WantedModel, places: Sequence[Path], allowed: AllowedUrls) -> None:
    """A client names no folder but beside those of the operator, or below what `allowed_urls` has. Raises Forbidden."""
    path = model.base_path.resolve()
    if any(path.is_relative_to(place) for place in places):
        return
    try:
        allowed.check_prefix(parse_url(path.as_uri()))
    except (Forbidden, ValueError):
        raise Forbidden(
            f"{_CALL}: model {model.name}: base_path: {shown(str(model.base_path))}: not beside the base paths of the"
            " operator's configuration, nor allowed by allowed_urls (file:///FOLDER/)"
        ) from None
