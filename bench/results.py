"""The measurements and the machine, kept as JSON beside the report."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec
import psutil


class Measurement(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One cell of one round."""

    server: str
    configuration: str = ""
    case: str
    """For example, the number of connections."""
    round: int
    values: dict[str, float] = {}
    """Values by name, which includes the unit."""
    failure: str = ""
    """Why the values do not count or are missing."""


class Machine(msgspec.Struct, frozen=True):
    cpu: str
    cores: int
    memory_gib: float
    kernel: str
    python: str


class ScenarioResults(msgspec.Struct, frozen=True, kw_only=True):
    """All of one run of a scenario."""

    date: str
    command: str
    rounds: int
    seconds: float
    machine: Machine
    versions: dict[str, str]
    measurements: list[Measurement]

    def median(self, key: str, case: str, server: str, configuration: str | None = None) -> float | None:
        """The median over the rounds, or None if nothing valid was measured."""
        values = [
            cell.values[key]
            for cell in self.measurements
            if cell.server == server
            and cell.case == case
            and configuration in (None, cell.configuration)
            and not cell.failure
            and key in cell.values
        ]
        return statistics.median(values) if values else None

    def best(
        self, key: str, case: str, server: str, choose: Callable[[Iterable[float]], float] = max
    ) -> tuple[float, str] | None:
        """The best configuration's median, and that configuration."""
        configurations = {cell.configuration for cell in self.measurements if cell.server == server}
        medians = {name: median for name in sorted(configurations) if (median := self.median(key, case, server, name))}
        if not medians:
            return None
        value = choose(medians.values())
        return value, next(name for name, median in medians.items() if median == value)

    def failures(self) -> list[Measurement]:
        return [cell for cell in self.measurements if cell.failure]

    def configurations(self, server: str) -> list[str]:
        """In the order of measuring."""
        return list(dict.fromkeys(cell.configuration for cell in self.measurements if cell.server == server))

    def servers(self) -> list[str]:
        """In the order of measuring."""
        return list(dict.fromkeys(cell.server for cell in self.measurements))

    def cases(self) -> list[str]:
        return list(dict.fromkeys(cell.case for cell in self.measurements))


Results = dict[str, ScenarioResults]
"""By scenario."""


def read(file: Path) -> Results:
    return msgspec.json.decode(file.read_bytes(), type=Results) if file.is_file() else {}


def write(file: Path, results: Results) -> None:
    file.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1) + b"\n")


def this_machine() -> Machine:
    """This machine's hardware and software, without anything that identifies it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
    gib = psutil.virtual_memory().total / (1 << 30)
    return Machine(
        cpu, os.cpu_count() or 0, round(gib, 1), platform.release().partition("-")[0], platform.python_version()
    )
