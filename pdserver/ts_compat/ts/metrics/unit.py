"""`ts.metrics.unit`."""

from __future__ import annotations

from pdserver.handlers.runtime.metrics import UNITS


class Units:
    """The units of metrics, by their abbreviations."""

    def __init__(self) -> None:
        self.units: dict[str | None, str] = {unit: UNITS[unit or ""] for unit in (*UNITS, None)}
