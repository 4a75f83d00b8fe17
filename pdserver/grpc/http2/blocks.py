"""Header blocks, and what they say."""

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
"""Of a header block: after a larger one, nobody knows the table any more."""
_MAX_READ_BYTES = 32 * 1024
"""Of a header block, to be read. It takes 10 ms where it is coded by Huffman."""
_MAX_LIST_BYTES = 64 * 1024
"""Of what it unpacks to: by Huffman's code alone, it can't be more than that."""
_MAX_KNOWN_BYTES = 16 * 1024
"""Of all heads that are kept for a connection, as HPACK counts: in memory they take some four times as much."""
_FIELD_BYTES = 32
"""What HPACK counts for a field besides its name and its value."""
_RESIZE, _RESIZE_MASK, _RESIZE_PREFIX = 0x20, 0xE0, 0x1F
_MAX_RESIZES = 2
"""In one block: the smallest size of the table since the last block, and the last one."""
Head = TypeVar("Head")


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
        self._decoder = Decoder(max_header_list_size=_MAX_LIST_BYTES)
        self._decoder.header_table = self._table = _Table()
        self._known: dict[bytes, Head] = {}
        self._known_bytes = 0

    def head(self, block: bytes) -> Head:
        """Of a request. Raises ConnectionFault, or StreamFault for one that is malformed."""
        return self._known.get(block) or self._new(block)

    def check_trailers(self, block: bytes) -> None:
        """Raises ConnectionFault, or StreamFault for malformed ones."""
        headers, _ = self._decoded(block)
        check_trailers(headers)

    def pass_over(self, block: bytes) -> None:
        """What it says is not wanted, but that it changes the table. Raises ConnectionFault."""
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
                self._known[block] = head
        return head

    def _decoded(self, block: bytes) -> tuple[Headers, bool]:
        """Its fields, and whether the same block has the same ones the next time. Raises as `head` does."""
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
        except (HPACKError, UnicodeError):  # whose text has addresses of memory
            raise ConnectionFault(ErrorCode.COMPRESSION_ERROR, "a header block can't be read") from None
        stays = not resized and changes == self._table.changes
        if not stays:
            self._forget()
        return headers, stays

    def _forget(self) -> None:
        self._known.clear()
        self._known_bytes = 0


def _resizes(block: bytes) -> bool:
    """Whether the block begins with new sizes of the table. Raises ConnectionFault when there are too many."""
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
