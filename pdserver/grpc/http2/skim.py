"""What a header block does to the table, where nobody wants to read what it says.

Source: RFC 7541, 5 and 6.
"""

from __future__ import annotations

from hpack import Decoder
from hpack.exceptions import HPACKDecodingError
from hpack.hpack import decode_integer
from hpack.huffman_table import decode_huffman

_FIELD, _KEPT, _RESIZE = 0x80, 0x40, 0x20
"""What a field begins with that is in the table, one that gets into it, and a new size of it."""
_HUFFMAN = 0x80
_LONGEST_CODE, _BYTE = 30, 8
"""Of Huffman's, in bits."""
_MAX_DECODED_BYTES = 16 * 1024
"""Of what gets into the table: it takes 5 ms."""


def skim(block: bytes, decoder: Decoder) -> None:
    """Strings are decoded only where the table gets them. Raises HPACKError."""
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
                table.add(b"", bytes(table.maxsize))  # which does not fit either, and empties it
                continue
            decoded += len(name) + len(value)
            if decoded > _MAX_DECODED_BYTES:
                raise HPACKDecodingError("too much for the table")
            table.add(table.get_by_index(index)[0] if index else _text(name), _text(value))


def _string(view: memoryview, place: int) -> tuple[memoryview, int]:
    """As it travels, with its length; and where the next thing begins."""
    length, size = decode_integer(view[place:], 7)
    end = place + size + length
    if end > len(view):
        raise HPACKDecodingError("a string breaks off")
    return view[place:end], end


def _text(string: memoryview) -> bytes:
    _, size = decode_integer(string, 7)
    raw = bytes(string[size:])
    return decode_huffman(raw) if string[0] & _HUFFMAN else raw
