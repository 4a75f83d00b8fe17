"""Triton's trace and logging settings.

Source: Triton's trace and logging extensions. The server writes no traces, so clients may set trace settings, but these
stay as they are. The levels of logging take effect; the other log settings are kept and told.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

from pdserver.errors import InvalidRequest, Unsupported
from pdserver.formats.values import nearest, shown

Setting = bool | int | str

TRACE: Mapping[str, str | list[str]] = {
    "trace_file": "",
    "trace_level": ["OFF"],
    "trace_rate": "1000",
    "trace_count": "-1",
    "log_frequency": "0",
    "trace_mode": "triton",
}
"""The trace settings of the server and of each model."""
_FLAGS = ("log_info", "log_warning", "log_error")
_FORMATS = ("default", "ISO8601")


def check_trace(given: Iterable[str]) -> None:
    """Whether clients may set these. Their values don't matter. Raises InvalidRequest, Unsupported."""
    for name in given:
        if name not in TRACE:
            raise InvalidRequest(f"unknown trace setting '{shown(name)}'{nearest(name, TRACE)}")
        if name in ("trace_file", "trace_mode"):
            raise Unsupported(f"trace setting '{name}' can't be changed while the server runs")


class LogSettings:
    """Of this process. The server's log has what is at least as severe as the least severe level that is on."""

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
