"""The command's reports without a server: the configuration, and the problems that a start would find."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from pdserver.configuration.models_to_load import ModelToLoad
from pdserver.configuration.server import KEYS, Config
from pdserver.configuration.sources import is_url
from pdserver.engine.specs import Specs
from pdserver.errors import ConfigError, PdError
from pdserver.formats.properties import escaped
from pdserver.logs import setup as logs
from pdserver.metrics.declared import load_metrics_config
from pdserver.peers import servers
from pdserver.security import guards
from pdserver.store.archives import Store
from pdserver.tfserving import config as model_config_list
from pdserver.triton.folders import Folders


def printed(config: Config) -> Iterator[str]:
    """The lines of a complete config.properties. Before each value is a comment with its source."""
    for name, given in config.given.items():
        yield f"# {given.where.removesuffix(f': {name}')}"
        yield f"{name}={escaped(given.text)}"
    yield "# default"
    for key in KEYS.values():
        if key.name not in config.given and key.default is not None:
            yield f"{key.name}={escaped(key.default)}"


def problems(config: Config) -> Iterator[str]:
    """The problems that a start with this configuration would find, one in each line. Downloads nothing, and opens no
    port."""
    logging.disable()
    try:
        for check in (_check_state, guards.check, _check_logs, _check_metrics, servers.check):
            yield from _lines(lambda check=check: check(config))  # type: ignore[misc]
        with tempfile.TemporaryDirectory(prefix="pdserver-check-") as folder:
            yield from _problems_of_archives(config, Path(folder))
        yield from _problems_of_repository(config)
        yield from _lines(lambda: _check_model_config(config))
    finally:
        logging.disable(logging.NOTSET)


def _lines(check: Callable[[], object]) -> Iterator[str]:
    try:
        check()
    except PdError as error:
        yield from str(error).splitlines()


def _check_state(config: Config) -> None:
    if config.state_location is not None:
        _check_folder("state_location", config.state_location.resolve())


def _check_folder(key: str, folder: Path) -> None:
    """Check that the folder can be written or created. Raises ConfigError."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise ConfigError(f"{key}={folder}: {there} can't be written: name a folder that this user may write to")


def _check_logs(config: Config) -> None:
    if config.log_config is not None:
        logs.check(config.log_config)
    _check_folder("log_location", config.log_location)


def _check_metrics(config: Config) -> None:
    if config.metrics_config is not None:
        load_metrics_config(config.metrics_config)


def _check_model_config(config: Config) -> None:
    if config.tensorflow_model_config is not None:
        model_config_list.parsed(model_config_list.texts(config.tensorflow_model_config))


def _problems_of_archives(config: Config, folder: Path) -> Iterator[str]:
    """Problems of the archives. Each is unpacked as for a start; those that would be downloaded are left out."""
    store = Store(config.model_store, folder, config.archive_limits, allow_unsafe=config.allow_unsafe_models)
    specs = Specs(
        config.models,
        config.model_defaults,
        config.default_service_handler,
        config.sequence_headers,
        config.model_key,
    )
    key = "model_snapshot" if config.model_snapshot else "load_models"
    where = config.given[key].where if key in config.given else key
    models = config.model_snapshot or config.load_models.named
    if config.load_models.all:
        models = tuple(map(ModelToLoad, store.names()))
    for model in models:
        if not is_url(model.url):
            for problem in _lines(lambda model=model: _open(store, specs, model)):  # type: ignore[misc]
                yield f"{where}: {problem}"


def _open(store: Store, specs: Specs, model: ModelToLoad) -> None:
    stored = store.open(model.url, sha256=model.sha256)
    try:
        specs(stored, model.name, model.handler, model.settings)
    finally:
        store.release(stored)


def _problems_of_repository(config: Config) -> Iterator[str]:
    folders = Folders(config.model_repository)
    explicit = config.model_control_mode == "explicit" and config.load_model != ("*",)
    for name in config.load_model if explicit else folders.models():
        try:
            found = folders.find(name)
            for version in found.versions:
                found.open(found.url(version))
        except PdError as error:
            yield from (f"model_repository: {name}: {line}" for line in str(error).splitlines())
