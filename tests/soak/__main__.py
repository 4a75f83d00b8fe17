"""`python -m tests.soak`: play the scenarios, print the figures, and fail when a promise was not kept."""

from __future__ import annotations

import argparse
import os
import platform
import re
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

from tests.soak import hostile, scenarios
from tests.soak.scenarios import Figure

_PAGE = Path(__file__).parent.parent.parent / "docs" / "reliability.md"
_BETWEEN = re.compile(r"(<!-- soak begin -->\n).*?(<!-- soak end -->)", re.DOTALL)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument(
        "--requests", type=int, default=20_000, help="with a worker killed each second, and of a real model"
    )
    parser.add_argument("--cycles", type=int, default=100, help="of registering and unregistering")
    parser.add_argument("--restarts", type=int, default=10, help="in order, and as many by kill -9")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each load of the overload, and of each attack")
    parser.add_argument("--only", help="one scenario, by its function's name")
    parser.add_argument("--write", action="store_true", help="put the figures into docs/reliability.md")
    given = parser.parse_args()
    plays: dict[str, Callable[[Path], list[Figure]]] = {
        "kills": lambda folder: scenarios.kills(folder, given.requests),
        "runs": lambda folder: scenarios.runs(folder, given.requests),
        "cycles": lambda folder: scenarios.cycles(folder, given.cycles),
        "restarts": lambda folder: scenarios.restarts(folder, given.restarts),
        "murders": lambda folder: scenarios.murders(folder, given.restarts),
        "overload": lambda folder: scenarios.overload(folder, given.seconds),
        "leavers": lambda folder: hostile.leavers(folder, 10 * given.cycles),
        "starved": lambda folder: hostile.starved(folder, given.seconds),
        "together": lambda folder: hostile.together(folder, given.restarts),
        "attacks": lambda folder: hostile.attacks(folder, given.seconds),
    }
    if given.only not in (None, *plays):
        parser.error(f"--only: {given.only} is none of {', '.join(plays)}")
    words = [
        f"make soak REQUESTS={given.requests} CYCLES={given.cycles} RESTARTS={given.restarts} SECONDS={given.seconds:g}"
    ]
    lines = [_head(words[0]), "", "| Figure | Measured | Promised | Kept |", "| --- | --- | --- | --- |"]
    broken = False
    for name, play in plays.items():
        if given.only in (None, name):
            with tempfile.TemporaryDirectory(prefix=f"soak-{name}-") as folder:
                began = time.monotonic()
                figures = play(Path(folder))
            for figure in figures:
                kept = "" if not figure.wanted else "yes" if figure.kept else "**no**"
                lines.append(f"| {figure.promise} | {figure.measured} | {figure.wanted} | {kept} |")
                print(lines[-1], flush=True)
                broken = broken or not figure.kept
            print(f"({name}: {time.monotonic() - began:.0f} s)", file=sys.stderr, flush=True)
    if given.write:
        table = "\n".join(lines)
        _PAGE.write_text(_BETWEEN.sub(lambda match: f"{match[1]}{table}\n{match[2]}", _PAGE.read_text()))
    sys.exit(broken)


def _head(command: str) -> str:
    load = os.getloadavg()[0]
    return (
        f"{datetime.now(timezone.utc):%Y-%m-%d}, `{command}`, {os.cpu_count()} cores (load before: {load:.1f}), Python"
        f" {platform.python_version()}, Linux {platform.release().split('-')[0]}."
    )


if __name__ == "__main__":
    main()
