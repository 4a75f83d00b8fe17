"""Header blocks, and what they say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from hpack import Decoder
from hpack.exceptions import HPACKError
from hpack.table import HeaderTable

from pdserver.http2.frames import ConnectionFault, ErrorCode

MAX_BLOCK_BYTES = 128 * 1024
"""Of a header block, and of what it unpacks to. What is larger than the stream takes, but not than this, can still be
answered; after a larger one, nobody knows the table any more."""
_MAX_KNOWN = 32
Head = TypeVar("Head")
Headers = list[tuple[bytes, bytes]]


class _Table(HeaderTable):
    """Counts what gets into it."""

    changes = 0

    def add(self, name: bytes, value: bytes) -> None:
        self.changes += 1
        super().add(name, value)


class Blocks(Generic[Head]):
    """Of one client. Its requests mostly have the same head, and the same block as soon as the table has all of that; a
    block that changes the table means something else the next time."""

    def __init__(self, read: Callable[[Headers], Head]) -> None:
        """`read` makes a head of a block's fields."""
        self._read = read
        self._decoder = Decoder(max_header_list_size=MAX_BLOCK_BYTES)
        self._decoder.header_table = self._table = _Table()
        self._known: dict[bytes, Head] = {}

    def head(self, block: bytes) -> Head:
        """Raises ConnectionFault."""
        return self._known.get(block) or self._decoded(block)

    def _decoded(self, block: bytes) -> Head:
        changes = self._table.changes
        try:
            head = self._read(self._decoder.decode(block, raw=True))  # type: ignore[arg-type]
        except (HPACKError, UnicodeError) as error:
            raise ConnectionFault(ErrorCode.COMPRESSION_ERROR, f"a header block can't be read: {error}") from None
        resizes = block[:1] and 0x20 <= block[0] < 0x40
        stays = not resizes and changes == self._table.changes
        if not stays or len(self._known) >= _MAX_KNOWN:
            self._known.clear()
        if stays:
            self._known[block] = head
        return head
