"""Structs that processes send each other, of which some may run another version of pdserver, as during an upgrade."""

from __future__ import annotations

from typing import Any

import msgspec

from pdserver import __version__
from pdserver.errors import Unavailable


class Message(msgspec.Struct, frozen=True):
    """Is pickled by the names of its fields, for a reader of any version.

    The reader drops fields that it does not know, and those that the writer did not know have their defaults. So a
    later version may add fields that have defaults, if an older one can do without them. Any other change of a message
    is refused with the words of `_read`, unless it has another name then.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        return _read, (type(self), __version__, msgspec.msgpack.encode(self))


def _read(kind: type[Message], version: str, content: bytes) -> Message:
    """`version` is the writer's. Raises Unavailable for what this version can't read."""
    try:
        return msgspec.msgpack.decode(content, type=kind)
    except msgspec.MsgspecError as error:
        raise Unavailable(
            f"pdserver {__version__} can't read a message of pdserver {version} ({kind.__name__}: {error}): install one"
            " version on all machines, then: pdserver cluster upgrade"
        ) from None
