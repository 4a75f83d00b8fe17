"""Sets up logging: one file for each purpose, or the operator's own configuration. A thread writes.

Loggers: pdserver, and below it pdserver.worker (what workers print), pdserver.access, pdserver.ts_metrics and
pdserver.model_metrics (used if metrics_mode is log or legacy), and pdserver.traces (of requests with a trace context).
"""

from __future__ import annotations

import configparser
import contextlib
import json
import logging
import logging.config
import queue
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from pdserver.configuration.server import Config
from pdserver.errors import ConfigError
from pdserver.formats.safe_yaml import load_yaml
from pdserver.formats.values import shown
from pdserver.logs.files import JsonFormatter, LogFile, TextFormatter

_log = logging.getLogger("pdserver.logs")
_MAPPINGS = (".yaml", ".yml", ".json")
"""Suffixes of files for dictConfig. Others are for fileConfig."""
_MAX_WAITING = 10_000
_CLOSE_SECONDS = 5.0

_Item = tuple[Sequence[logging.Handler], logging.LogRecord]


class Logs:
    """The process's logging while this is open. With `terminal`, everything but the metrics also goes to stderr.

    Raises ConfigError for a log_config that logging doesn't accept.
    """

    def __init__(self, config: Config, *, terminal: bool) -> None:
        if config.log_config is not None:
            configure(config.log_config)
        else:
            logging.config.dictConfig(_own_configuration(config, terminal=terminal))
        self._writer = _Writer()
        for logger in _loggers():
            if logger.handlers:
                handlers, logger.handlers = logger.handlers, []
                logger.addHandler(_Deferred(self._writer, handlers))

    def __enter__(self) -> Logs:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._writer.close()


class _Deferred(logging.Handler):
    """Passes the records of one logger to the writer."""

    def __init__(self, writer: _Writer, handlers: Sequence[logging.Handler]) -> None:
        super().__init__()
        self._writer = writer
        self._handlers = handlers

    def emit(self, record: logging.LogRecord) -> None:
        self._writer.put((self._handlers, record))


class _Writer:
    """A thread that writes. If records come faster than it can write for long, it drops some and logs how many."""

    def __init__(self) -> None:
        self._items: queue.Queue[_Item | None] = queue.Queue(_MAX_WAITING)
        self._dropped = 0
        self._thread = threading.Thread(target=self._write, name="logs", daemon=True)
        self._thread.start()

    def put(self, item: _Item) -> None:
        """Never blocks."""
        try:
            self._items.put_nowait(item)
        except queue.Full:
            self._dropped += 1

    def close(self) -> None:
        """Write the waiting records."""
        if self._thread.is_alive():
            try:
                self._items.put(None, timeout=_CLOSE_SECONDS)
            except queue.Full:
                return
            self._thread.join(_CLOSE_SECONDS)

    def _write(self) -> None:
        while (item := self._items.get()) is not None:
            handlers, record = item
            for handler in handlers:
                if record.levelno >= handler.level:
                    handler.handle(record)
            if self._dropped and self._items.empty():
                dropped, self._dropped = self._dropped, 0
                _log.warning("%d log records were dropped: they came faster than they could be written", dropped)


def _loggers() -> Iterator[logging.Logger]:
    yield logging.getLogger()
    for logger in list(logging.Logger.manager.loggerDict.values()):
        if isinstance(logger, logging.Logger):
            yield logger


def _own_configuration(config: Config, *, terminal: bool) -> dict[str, Any]:
    formatter = "json" if config.log_format == "json" else "text"
    folder, metrics_folder = config.log_location, config.metrics_location or config.log_location
    also = ["terminal"] if terminal else []
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "text": {"()": TextFormatter},
            "json": {"()": JsonFormatter},
            "lines": {"format": "%(message)s"},
        },
        "handlers": {
            "server": _file(folder / "pdserver.log", formatter),
            "workers": _file(folder / "model_log.log", formatter),
            "access": _file(folder / "access_log.log", "lines"),
            "ts_metrics": _file(metrics_folder / "ts_metrics.log", "lines"),
            "model_metrics": _file(metrics_folder / "model_metrics.log", "lines"),
            "traces": _file(folder / "traces.log", "lines"),
            "terminal": {"class": "logging.StreamHandler", "formatter": formatter},
            "terminal_access": {"class": "logging.StreamHandler", "formatter": "lines"},
        },
        "loggers": {
            "pdserver.worker": {"handlers": ["workers", *also], "propagate": False},
            "pdserver.access": {"handlers": ["access", *(["terminal_access"] if terminal else [])], "propagate": False},
            **{
                f"pdserver.{name}": {"handlers": [name], "propagate": False}
                for name in ("ts_metrics", "model_metrics", "traces")
            },
            "uvicorn": {"level": "WARNING"},
        },
        "root": {"level": "INFO", "handlers": ["server", *also]},
    }


def _file(path: Path, formatter: str) -> dict[str, Any]:
    return {"()": LogFile, "path": path, "formatter": formatter}


def check(path: Path) -> None:
    """Raises ConfigError where `configure` would, but opens no file: it may belong to a running server."""
    with _said_of(path):
        if path.suffix not in _MAPPINGS:
            configparser.RawConfigParser().read_string(path.read_text(), str(path))
            return
        config = _mapping(path)
        resolve = logging.config.DictConfigurator(config).resolve
        handlers = config.get("handlers", {})
        for handler in handlers.values():
            resolve(handler.get("class", "logging.NullHandler"))
        kept = ("formatter", "filters", "level")
        opened = {
            name: {"class": "logging.NullHandler", **{key: handler[key] for key in kept if key in handler}}
            for name, handler in handlers.items()
        }
        logging.config.dictConfig({**config, "handlers": opened})


def configure(path: Path) -> None:
    """Apply the operator's file. Loggers that it doesn't name stay as they are. Raises ConfigError."""
    with _said_of(path):
        if path.suffix in _MAPPINGS:
            logging.config.dictConfig(_mapping(path))
        else:
            logging.config.fileConfig(path, disable_existing_loggers=False)


def _mapping(path: Path) -> dict[str, Any]:
    text = path.read_bytes()
    loaded = json.loads(text) if path.suffix == ".json" else load_yaml(text, str(path), aliases=True)
    if not isinstance(loaded, dict):
        raise ValueError("expected the keys of logging.config.dictConfig")
    return {"version": 1, "disable_existing_loggers": False, **loaded}


@contextlib.contextmanager
def _said_of(path: Path) -> Iterator[None]:
    """Turns errors in the operator's file into ConfigError."""
    try:
        yield
    except (OSError, ValueError, TypeError, AttributeError, LookupError, RuntimeError, configparser.Error) as error:
        reason = f"{error}: {error.__cause__}" if error.__cause__ else str(error)
        hint = " (log4j's XML is Java's: write YAML for Python's logging instead)" if path.suffix == ".xml" else ""
        raise ConfigError(f"log_config={path}: {shown(reason)}{hint}") from None
