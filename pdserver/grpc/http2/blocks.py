"""Reads header blocks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from hpack import Decoder
from hpack.exceptions import HPACKError, OversizedHeaderListError
from hpack.table import HeaderTable

from pdserver.grpc.http2.fields import Headers, check_request, check_trailers
from pdserver.grpc.http2.frames import ConnectionFault, ErrorCode, StreamFault
from pdserver.grpc.http2.skim import skim

MAX_BLOCK_BYTES = 128 * 1024
"""Limit for a header block. After a larger one, the header table is unknown, so the connection ends."""
_MAX_READ_BYTES = 32 * 1024
"""Limit for a header block that is decoded, which takes 10 ms for Huffman's code."""
_MAX_LIST_BYTES = 64 * 1024
"""Limit for the decoded block. Huffman's code alone can't exceed it."""
_MAX_KNOWN_BYTES = 16 * 1024
"""Limit for all heads that are kept for a connection, as HPACK counts. They take some four times as much memory."""
_FIELD_BYTES = 32
"""The bytes that HPACK counts for a field in addition to its name and its value."""
_RESIZE, _RESIZE_MASK, _RESIZE_PREFIX = 0x20, 0xE0, 0x1F
_MAX_RESIZES = 2
"""Allowed in one block: the smallest size of the table since the last block, and the latest."""
Head = TypeVar("Head")


class _Table(HeaderTable):
    """A header table that counts the additions."""

    changes = 0

    def add(self, name: bytes, value: bytes) -> None:
        self.changes += 1
        super().add(name, value)


class Blocks(Generic[Head]):
    """One client's header blocks. Its requests mostly have the same head, and the same block once the table contains
    it. Such blocks are decoded once. A block that changes the table has another meaning the next time."""

    def __init__(self, read: Callable[[Headers], Head]) -> None:
        """`read` turns a block's fields into a head."""
        self._read = read
        self._decoder = Decoder(max_header_list_size=_MAX_LIST_BYTES)
        self._decoder.header_table = self._table = _Table()
        self.known: dict[bytes, Head] = {}
        """The heads of blocks that mean the same each time."""
        self._known_bytes = 0

    def head(self, block: bytes) -> Head:
        """The head of a request. Raises ConnectionFault, or StreamFault for a malformed head."""
        return self.known.get(block) or self._new(block)

    def check_trailers(self, block: bytes) -> None:
        """Check a request's trailers. Raises ConnectionFault, or StreamFault for malformed ones."""
        headers, _ = self._decoded(block)
        check_trailers(headers)

    def pass_over(self, block: bytes) -> None:
        """Only apply the block's changes to the table. Raises ConnectionFault."""
        self._decoded(block)

    def _new(self, block: bytes) -> Head:
        headers, stays = self._decoded(block)
        check_request(headers)
        head = self._read(headers)
        if stays:
            size = sum([len(name) + len(value) + _FIELD_BYTES for name, value in headers]) + len(block)
            if self._known_bytes + size > _MAX_KNOWN_BYTES:
                self._forget()
            if size <= _MAX_KNOWN_BYTES // 4:
                self._known_bytes += size
                self.known[block] = head
        return head

    def _decoded(self, block: bytes) -> tuple[Headers, bool]:
        """The block's fields, and whether the same block will mean the same the next time. Raises as `head` does."""
        changes = self._table.changes
        resized = _resizes(block)
        try:
            if len(block) > _MAX_READ_BYTES:
                skim(block, self._decoder)
                self._forget()
                raise StreamFault(ErrorCode.ENHANCE_YOUR_CALM, f"a head is larger than {_MAX_READ_BYTES} bytes")
            headers: Headers = self._decoder.decode(block, raw=True)  # type: ignore[assignment]
        except OversizedHeaderListError:
            said = f"a header block unpacks to more than {_MAX_LIST_BYTES} bytes"
            raise ConnectionFault(ErrorCode.COMPRESSION_ERROR, said) from None
        except (HPACKError, UnicodeError):  # its text contains memory addresses, so it is not passed on
            raise ConnectionFault(ErrorCode.COMPRESSION_ERROR, "a header block can't be read") from None
        stays = not resized and changes == self._table.changes
        if not stays:
            self._forget()
        return headers, stays

    def _forget(self) -> None:
        self.known.clear()
        self._known_bytes = 0


def _resizes(block: bytes) -> bool:
    """Whether the block begins with new sizes of the table. Raises ConnectionFault if there are too many."""
    place = count = 0
    while block[place : place + 1] and block[place] & _RESIZE_MASK == _RESIZE:
        goes_on = block[place] & _RESIZE_PREFIX == _RESIZE_PREFIX
        place += 1
        while goes_on and block[place : place + 1]:
            goes_on = block[place] >= 0x80
            place += 1
        count += 1
        if count > _MAX_RESIZES:
            raise ConnectionFault(ErrorCode.COMPRESSION_ERROR, "a header block resizes the table more than twice")
    return count > 0
