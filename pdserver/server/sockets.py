"""Listening sockets: one for this process, or several of one port that share its connections."""

from __future__ import annotations

import contextlib
import ctypes
import socket
import struct
from typing import Any

from pdserver.security.listening import BACKLOG

_LOAD_RANDOM, _MODULO, _RETURN = (0x20, 0xFFFFF038), 0x94, (0x16, 0)
"""Codes of the classic BPF, as in linux/filter.h: load a random number, its remainder, return it."""
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
        _keep_to_these(sockets)
    return sockets


def _keep_to_these(sockets: list[socket.socket]) -> None:
    """Have the system choose among these sockets only. Another program of this user that binds the port with
    SO_REUSEPORT, as gRPC's servers do, would get its share of the connections otherwise."""
    steps = ((*_LOAD_RANDOM,), (_MODULO, len(sockets)), (*_RETURN,))
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", code, 0, 0, value) for code, value in steps))
    with contextlib.suppress(OSError):  # a system without it shares the connections by their addresses
        sockets[0].setsockopt(
            socket.SOL_SOCKET, _ATTACH_REUSEPORT_CBPF, struct.pack("HxxxxxxQ", len(steps), ctypes.addressof(program))
        )
