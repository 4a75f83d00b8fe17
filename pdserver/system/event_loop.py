"""The event loop of a process that serves, and the garbage collector beside it."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Coroutine
from typing import Any

_YOUNG_OBJECTS = 10_000
"""So many new containers, and not 700, make the garbage collector look through them. A few hundred requests in flight
have as many, and are no garbage."""


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run it in an event loop of its own."""
    try:
        import uvloop
    except ImportError:  # uvloop does not exist for every system
        asyncio.run(main)
    else:
        uvloop.run(main)


def spare_the_collector() -> None:
    """Have the garbage collector leave out what the start has made: it stays, and looking through it takes a tenth of a
    second, in which nobody is answered."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS)
