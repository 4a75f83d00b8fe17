"""File descriptors when they run short, so that what keeps a process alive is the last to go without.

Mappings go without first, which copies replace; then large bodies, then new clients. The rest is for workers, for logs
and for what workers send. The kernel gives out the lowest free number, so a new descriptor's number says how many there
are at least.
"""

from __future__ import annotations

import asyncio
import resource

NONE_LEFT = "the server has no file descriptors left for more connections (ulimit -n); try again in a moment"
_MOST_KEPT = 192
"""Enough for what comes from a worker at once, and for the pipes and sockets of a few dozen new workers."""


def are_left_for(client: asyncio.BaseTransport) -> bool:
    """Whether a new client may stay."""
    sock = client.get_extra_info("socket")
    limit, kept = _limit()
    return sock is None or sock.fileno() < limit - kept // 2


def are_plenty(fd: int) -> bool:
    """Whether a new descriptor may be kept for what can be done without, if more slowly."""
    limit, _ = _limit()
    return fd < limit // 2


def is_left_for_data(fd: int) -> bool:
    """Whether a new memory file may stay."""
    limit, kept = _limit()
    return fd < limit - kept


def _limit() -> tuple[int, int]:
    """How many there can be, and how many of them are kept."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return 1 << 30, 0
    return limit, min(_MOST_KEPT, limit // 4)
