"""Rations file descriptors when they run short, so that the server can go on.

First, mappings get none and copies replace them; then large bodies, then new clients. The rest is for workers, for logs
and for files that workers send. The kernel hands out the lowest free number, so a new descriptor's number is a lower
bound of how many are in use.
"""

from __future__ import annotations

import asyncio
import resource

NONE_LEFT = "the server has no file descriptors left for more connections (ulimit -n); try again in a moment"
_MOST_KEPT = 192
"""Enough for the files of a worker's frame, and for the pipes and sockets of a few dozen new workers."""


def are_left_for(client: asyncio.BaseTransport) -> bool:
    """Whether there are descriptors for a new client."""
    sock = client.get_extra_info("socket")
    limit, kept = _limit()
    return sock is None or sock.fileno() < limit - kept // 2


def are_plenty(fd: int) -> bool:
    """Whether a new descriptor may be kept for something that also works, more slowly, without it."""
    limit, _ = _limit()
    return fd < limit // 2


def is_left_for_data(fd: int) -> bool:
    """Whether a new memory file may be kept."""
    limit, kept = _limit()
    return fd < limit - kept


def _limit() -> tuple[int, int]:
    """The process's limit, and how many descriptors are reserved."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return 1 << 30, 0
    return limit, min(_MOST_KEPT, limit // 4)
