"""The file that says who serves what: JSON, which is replaced as a whole while the server runs."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from pdserver.errors import ConfigError
from pdserver.formats.values import nearest, shown
from pdserver.peers.base import Addresses, Peers, Route
from pdserver.types import ModelRef

_log = logging.getLogger("pdserver.peers")
_LOOK_SECONDS = 0.25
_MAX_BYTES = 64 * 1024 * 1024
_NAME = re.compile(r"[\x21-\x7e]{1,128}")
_decode = msgspec.json.Decoder(Peers).decode
_Signature = tuple[int, int, int]


class PeersFile:
    """Raises ConfigError if the file can't be used at the start. Later, one that can't be used changes nothing."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = _signature(path)
        self.peers = read(path)

    async def follow(self, on_change: Callable[[Peers], None]) -> None:
        """Call `on_change` after each change, until it is cancelled. It polls: another machine may write the file."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            seen = await asyncio.to_thread(_signature, self._path)
            if seen == self._seen:
                continue
            self._seen = seen
            try:
                self.peers = await asyncio.to_thread(read, self._path)
            except ConfigError as error:
                _log.error("%s; what it said before stays in force", error)
            else:
                on_change(self.peers)


def read(path: Path) -> Peers:
    """Raises ConfigError."""
    said = f"peers_file={path}"
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise ConfigError(f"{said}: cannot be read: {error.strerror}") from None
    try:
        _check(os.fstat(fd), said, path)
        with os.fdopen(fd, "rb", closefd=False) as file:
            data = file.read(_MAX_BYTES)
    finally:
        os.close(fd)
    try:
        peers = _decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{said}: {_unknown_key(data) or error}: expected what docs/peers.md describes") from None
    if msgspec.json.encode(peers) != data and (unknown := _unknown_key(data)):  # a cluster's own file is not searched
        raise ConfigError(f"{said}: {unknown}: expected what docs/peers.md describes")
    _check_names(peers, said)
    for node in sorted({node for route in peers.routes for node in route.nodes} - {*peers.nodes, peers.node}):
        _log.warning(
            "%s: routes: %s is not among nodes%s: it is asked nothing", said, shown(node), nearest(node, peers.nodes)
        )
    return peers


def _unknown_key(text: bytes) -> str:
    """The first key that the file should not have, with the nearest one that it may have; "": there is none. The
    structs forbid no keys: they also cross between versions of pdserver, of which the newer one may know more."""
    try:
        document = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return ""
    for where, value, kind in _structs_in(document):
        for key in value if isinstance(value, dict) else ():
            if key not in kind.__struct_fields__:
                return f"{where}unknown key {shown(key)}{nearest(key, kind.__struct_fields__)}"
    return ""


def _structs_in(document: Any) -> Iterator[tuple[str, Any, type[msgspec.Struct]]]:
    """The place of each object, the object, and what it should be."""
    yield "", document, Peers
    document = document if isinstance(document, dict) else {}
    nodes, routes = document.get("nodes"), document.get("routes")
    for name, addresses in nodes.items() if isinstance(nodes, dict) else ():
        yield f"nodes: {shown(name)}: ", addresses, Addresses
    for number, route in enumerate(routes if isinstance(routes, list) else ()):
        yield f"routes[{number}]: ", route, Route
        if isinstance(route, dict):
            yield f"routes[{number}]: ref: ", route.get("ref"), ModelRef


def _check(state: os.stat_result, said: str, path: Path) -> None:
    """Who can write the file can have requests, and the tokens in them, sent anywhere."""
    if not stat.S_ISREG(state.st_mode) or state.st_size > _MAX_BYTES:
        raise ConfigError(f"{said}: expected a file of at most {_MAX_BYTES:,} bytes")
    if state.st_mode & 0o022:
        raise ConfigError(
            f"{said}: others than its owner may write it, and have requests sent elsewhere: chmod go-w {path}"
        )
    if state.st_uid not in (0, os.geteuid()):
        raise ConfigError(
            f"{said}: it belongs to another user (uid {state.st_uid}): expected the server's own, or root"
        )


def _check_names(peers: Peers, said: str) -> None:
    if not _NAME.fullmatch(peers.node):
        raise ConfigError(f"{said}: node: {shown(peers.node)}: expected a name of up to 128 ASCII characters")
    for name, addresses in peers.nodes.items():
        try:
            parts = urlsplit(addresses.inference)
            sound = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:  # the port is no number
            sound = False
        if not sound:
            where = f"nodes: {shown(name)}: inference: {shown(addresses.inference)}"
            raise ConfigError(f"{said}: {where}: expected a URL such as http://10.0.0.2:8080")


def _signature(path: Path) -> _Signature | None:
    """A value that changes with the file; None: there is none."""
    try:
        state = path.stat()
    except OSError:
        return None
    return state.st_ino, state.st_ctime_ns, state.st_size
