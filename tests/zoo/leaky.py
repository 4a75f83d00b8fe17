"""Leaks descriptors until there are none: `leak`, and then `open` needs one, `large` gives a large answer."""

import os
from typing import Any

SIZE = 1 << 20
_leaked: list[int] = []


def handle(data: list[dict[str, Any]] | None, context: Any) -> Any:
    return None if data is None else [_answer(bytes(row["body"])) for row in data]


def _answer(body: bytes) -> bytes:
    if body == b"leak":
        while True:
            try:
                _leaked.append(os.dup(2))
            except OSError:
                return b"%d" % os.getpid()
    if body == b"open":
        os.close(os.dup(2))
    return bytes(SIZE) if body == b"large" else b"%d %d" % (os.getpid(), len(body))
