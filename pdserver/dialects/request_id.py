"""The name of a request, in logs and answers: what the client calls it, or one of our own."""

from __future__ import annotations

import itertools
import re
import secrets

_GIVEN = re.compile(rb"[\x21-\x7e]{1,128}")
_PREFIX = secrets.token_hex(10)
_numbers = itertools.count()


def request_id(given: bytes = b"") -> str:
    """`given`, if it is printable ASCII of up to 128 characters; else a new one, made without asking the system for
    randomness each time."""
    if given and _GIVEN.fullmatch(given):
        return given.decode()
    return f"{_PREFIX}{next(_numbers):012x}"
