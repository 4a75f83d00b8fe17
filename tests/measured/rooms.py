"""Tells how much of each room the tests have run: `python -m tests.measured.rooms`, after a run under coverage.

Counts lines and branches, as coverage does. Exits with 1 when the whole is below `fail_under` of pyproject.toml.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path, PurePath

import coverage

REPORT = Path("build/coverage/report.json")


def room(path: str) -> str:
    """The folder below the package, or the package for the files of its hall."""
    return "/".join(PurePath(path).parts[:-1][:2])


def share(counted: Counter[str]) -> float:
    """Percent."""
    covered, all_of_it = (counted[lines] + counted[branches] for lines, branches in (
        ("covered_lines", "covered_branches"), ("num_statements", "num_branches"),
    ))  # fmt: skip
    return 100 * covered / all_of_it


def main() -> int:
    measured = coverage.Coverage()
    measured.combine(keep=True)
    measured.json_report(outfile=str(REPORT))
    rooms: dict[str, Counter[str]] = {}
    whole: Counter[str] = Counter()
    for path, found in json.loads(REPORT.read_text())["files"].items():
        counted = {name: value for name, value in found["summary"].items() if isinstance(value, int)}
        rooms.setdefault(room(path), Counter()).update(counted)
        whole.update(counted)
    least = float(measured.config.fail_under)
    for name, counted in sorted(rooms.items()):
        print(f"{share(counted):6.1f} %  {name}")
    print(f"{share(whole):6.1f} %  the whole; at least {least:g} % is wanted")
    return share(whole) < least


if __name__ == "__main__":
    sys.exit(main())
