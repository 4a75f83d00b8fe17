"""Listening sockets: one for this process, or several of one port that share its connections."""

from __future__ import annotations

import contextlib
import ctypes
import socket
import struct
from collections.abc import Sequence
from typing import Any

from pdserver.security.listening import BACKLOG

_LOAD_RANDOM, _MODULO, _IS, _RETURN_IT, _RETURN = 0x20, 0x94, 0x15, 0x16, 0x06
"""Codes of the classic BPF, see linux/filter.h."""
_RANDOM = 0xFFFFF038
"""Where it finds a random number: SKF_AD_OFF + SKF_AD_RANDOM."""
_ATTACH_REUSEPORT_CBPF = 51
"""SO_ATTACH_REUSEPORT_CBPF, for which Python has no name."""


def listening(family: int, kind: int, protocol: int, where: Any, count: int) -> list[socket.socket]:
    """So many sockets that listen on one address. The system gives each new connection to one of them, at random.

    A port that another process has is refused, whether or not that process would share it. Raises OSError.
    """
    sockets: list[socket.socket] = []
    try:
        for _ in range(count):
            sock = socket.socket(family, kind, protocol)
            sockets.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if len(sockets) > 1:  # the first one would share the port with anybody
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind(where)
            if count > 1:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            where = (where[0], sock.getsockname()[1], *where[2:])
            sock.setblocking(False)
        for sock in sockets:
            sock.listen(BACKLOG)
    except OSError:
        for sock in sockets:
            sock.close()
        raise
    if count > 1:
        share(sockets, range(count))
    return sockets


def share(sockets: Sequence[socket.socket], among: Sequence[int]) -> None:
    """Have the system give new connections only to those of the sockets that have these numbers.

    Without it, another program of this user that binds the port with SO_REUSEPORT, as gRPC's servers do, would get its
    part of the connections. `sockets` are all that `listening` has returned.
    """
    steps = [(_LOAD_RANDOM, 0, _RANDOM), (_MODULO, 0, len(among))]
    for place, number in enumerate(among):
        steps += [(_IS, 1, place), (_RETURN, 0, number)]  # unless it is this one, leave out one step
    steps.append((_RETURN_IT, 0, 0))
    program = ctypes.create_string_buffer(
        b"".join(struct.pack("HBBI", code, 0, no, value) for code, no, value in steps)
    )
    with contextlib.suppress(OSError):  # a system without it shares the connections by their addresses
        sockets[0].setsockopt(
            socket.SOL_SOCKET, _ATTACH_REUSEPORT_CBPF, struct.pack("HxxxxxxQ", len(steps), ctypes.addressof(program))
        )
