"""Why a process does not start, in a line."""

from __future__ import annotations

import re

_PLACE = re.compile(r'^\s*File "(.+)", line (\d+)', re.MULTILINE)
_OWN = "pdserver.errors."
"""What begins the name of an error whose text says all."""


def reason(words: str) -> str:
    """The last line and the last place of words that have a stack trace; others as they are."""
    places = _PLACE.findall(words)
    if not places:
        return words.strip()
    last = words.strip().splitlines()[-1].strip()
    if last.startswith(_OWN):
        return last.partition(": ")[2]
    return f"{last} ({places[-1][0]}, line {places[-1][1]})"
