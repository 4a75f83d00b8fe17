"""Triton's trace and logging settings: told, checked and kept; the levels of logging take effect.

Source: Triton's trace and logging extensions. Trace settings are texts; a model has its own for what was set for it,
and the server's for the rest. This server writes no traces, so they change nothing but what is told.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping

from pdserver.errors import InvalidRequest, Unsupported
from pdserver.formats.values import nearest, shown

Texts = str | list[str]
Setting = bool | int | str

_TRACE_DEFAULTS: dict[str, Texts] = {
    "trace_file": "",
    "trace_level": ["OFF"],
    "trace_rate": "1000",
    "trace_count": "-1",
    "log_frequency": "0",
    "trace_mode": "triton",
}
_TRACE_LEVELS = ("OFF", "TIMESTAMPS", "TENSORS")
_NUMBERS = {
    "trace_rate": (re.compile(r"[1-9][0-9]{0,9}"), "a number from 1"),
    "trace_count": (re.compile(r"-1|[0-9]{1,10}"), "a number, or -1 for no limit"),
    "log_frequency": (re.compile(r"[0-9]{1,10}"), "a number from 0"),
}
_FLAGS = ("log_info", "log_warning", "log_error")
_FORMATS = ("default", "ISO8601")


class TraceSettings:
    """The server's, and those of single models."""

    def __init__(self) -> None:
        self._server = dict(_TRACE_DEFAULTS)
        self._models: dict[str, dict[str, Texts]] = {}

    def get(self, model: str | None = None) -> dict[str, Texts]:
        return self._server | self._models.get(model or "", {})

    def update(self, given: Mapping[str, object], model: str | None = None) -> dict[str, Texts]:
        """The settings after the change; None as a value clears one. Raises InvalidRequest, Unsupported."""
        checked = {name: _trace_value(name, value) for name, value in given.items()}
        target = self._server if model is None else self._models.setdefault(model, {})
        for name, value in checked.items():
            if value is not None:
                target[name] = value
            elif model is None:
                target[name] = _TRACE_DEFAULTS[name]
            else:
                target.pop(name, None)
        return self.get(model)


class LogSettings:
    """Of this process. The least severe level that is on decides what of the server's log is written."""

    def __init__(self) -> None:
        self._logger = logging.getLogger("pdserver")
        self._settings: dict[str, Setting] = {
            "log_file": "",
            "log_info": self._logger.isEnabledFor(logging.INFO),
            "log_warning": self._logger.isEnabledFor(logging.WARNING),
            "log_error": self._logger.isEnabledFor(logging.ERROR),
            "log_verbose_level": int(self._logger.isEnabledFor(logging.DEBUG)),
            "log_format": "default",
        }

    def get(self) -> dict[str, Setting]:
        return dict(self._settings)

    def update(self, given: Mapping[str, object]) -> dict[str, Setting]:
        """The settings after the change. Raises InvalidRequest, Unsupported."""
        self._settings |= {name: _log_value(name, value) for name, value in given.items()}
        self._logger.setLevel(self._level())
        return self.get()

    def _level(self) -> int:
        levels = (
            ("log_verbose_level", logging.DEBUG),
            ("log_info", logging.INFO),
            ("log_warning", logging.WARNING),
            ("log_error", logging.ERROR),
        )
        return next((level for name, level in levels if self._settings[name]), logging.CRITICAL)


def _trace_value(name: str, value: object) -> Texts | None:
    if name not in _TRACE_DEFAULTS:
        raise InvalidRequest(f"unknown trace setting '{shown(name)}'{nearest(name, _TRACE_DEFAULTS)}")
    if name in ("trace_file", "trace_mode"):
        raise Unsupported(f"trace setting '{name}' can't be changed while the server runs")
    if value is None:
        return None
    if name == "trace_level":
        levels = value if isinstance(value, list) else [value]
        if not levels or not all(level in _TRACE_LEVELS for level in levels):
            raise InvalidRequest(f"trace_level is {shown(value)}: expected a list of {', '.join(_TRACE_LEVELS)}")
        return [str(level) for level in levels]
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    pattern, expected = _NUMBERS[name]
    text = str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
    if not pattern.fullmatch(text):
        raise InvalidRequest(f"{name} is {shown(value)}: expected {expected}, as text")
    return text


def _log_value(name: str, value: object) -> Setting:
    if name == "log_file":
        raise Unsupported("log_file can't be changed over the network: log_location is set in config.properties")
    if name in _FLAGS:
        if not isinstance(value, bool):
            raise InvalidRequest(f"{name} is {shown(value)}: expected true or false")
        return value
    if name == "log_verbose_level":
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**32:
            raise InvalidRequest(f"log_verbose_level is {shown(value)}: expected a number from 0")
        return value
    if name == "log_format":
        if value not in _FORMATS:
            raise InvalidRequest(f"log_format is {shown(value)}: expected {' or '.join(_FORMATS)}")
        return str(value)
    known = (*_FLAGS, "log_verbose_level", "log_format")
    raise InvalidRequest(f"unknown log setting '{shown(name)}'{nearest(name, known)}")
