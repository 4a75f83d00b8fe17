"""Applies a header block's changes to the table without decoding the rest.

Source: RFC 7541, 5 and 6.
"""

from __future__ import annotations

from hpack import Decoder
from hpack.exceptions import HPACKDecodingError
from hpack.hpack import decode_integer
from hpack.huffman_table import decode_huffman

_FIELD, _KEPT, _RESIZE = 0x80, 0x40, 0x20
"""The first bits of a field in the table, of a field that is added to it, and of a new size of the table."""
_HUFFMAN = 0x80
_LONGEST_CODE, _BYTE = 30, 8
"""Lengths in Huffman's code, in bits."""
_MAX_DECODED_BYTES = 16 * 1024
"""Limit for what is added to the table. Decoding it takes 5 ms."""


def skim(block: bytes, decoder: Decoder) -> None:
    """Update the decoder's table. Only strings that the table gets are decoded. Raises HPACKError."""
    view, table = memoryview(block), decoder.header_table
    place = decoded = 0
    while place < len(view):
        first = view[place]
        if first & _FIELD:
            index, size = decode_integer(view[place:], 7)
            table.get_by_index(index)
            place += size
        elif first & (_KEPT | _RESIZE) == _RESIZE:
            table.maxsize, size = decode_integer(view[place:], 5)
            place += size
            if table.maxsize > decoder.max_allowed_table_size:
                raise HPACKDecodingError("the table gets too large")
        else:
            index, size = decode_integer(view[place:], 6 if first & _KEPT else 4)
            place += size
            name, place = (view[:0], place) if index else _string(view, place)
            value, place = _string(view, place)
            if not first & _KEPT:
                continue
            if (len(name) + len(value)) * _BYTE // _LONGEST_CODE > table.maxsize:
                table.add(b"", bytes(table.maxsize))  # does not fit either, and empties the table as the field would
                continue
            decoded += len(name) + len(value)
            if decoded > _MAX_DECODED_BYTES:
                raise HPACKDecodingError("too much for the table")
            table.add(table.get_by_index(index)[0] if index else _text(name), _text(value))


def _string(view: memoryview, place: int) -> tuple[memoryview, int]:
    """The string as it was sent, with its length, and where the next item begins."""
    length, size = decode_integer(view[place:], 7)
    end = place + size + length
    if end > len(view):
        raise HPACKDecodingError("a string breaks off")
    return view[place:end], end


def _text(string: memoryview) -> bytes:
    _, size = decode_integer(string, 7)
    raw = bytes(string[size:])
    return decode_huffman(raw) if string[0] & _HUFFMAN else raw
