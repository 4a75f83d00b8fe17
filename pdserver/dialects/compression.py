"""Bodies that are compressed with gzip or deflate: requests' are read, answers' are written.

"deflate" is zlib's format (RFC 9110, 8.4.1.2). A limit holds for the size of what a request's body unpacks to.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from functools import lru_cache

from pdserver.dialects.base import Body, Pieces
from pdserver.dialects.codec import LARGE_BYTES
from pdserver.errors import InvalidRequest, TooLarge, Unsupported
from pdserver.formats.values import shown
from pdserver.memory_file import Buffer

_WINDOW = {"gzip": 31, "deflate": 15}
"""zlib's `wbits` for the two formats."""
_STEP_BYTES = LARGE_BYTES
_FED_BYTES = 64 * 1024
"""So much input is fed to zlib at once: it copies what it does not use up."""
_FEW_PIECES = 64
_MAX_MEMBERS = 10_000
"""A member costs as much time as many bytes."""
_LEVEL = 1
"""Tensors hardly get smaller by trying harder."""
_SMALL_BYTES = 1024
"""Compressing less takes longer than sending it."""
_LARGE_NUMBERS_BYTES = 64 * 1024
_LARGE_BYTES = 1024 * 1024
"""Compressing more takes as long as many an inference."""


def soon_decompressed(body: Body, encoding: bytes, limit_bytes: int) -> Body | None:
    """The body without its Content-Encoding; None when it turns out large. Then use `decompressed`, which takes long.

    Raises Unsupported for another encoding, InvalidRequest for data of another format, TooLarge.
    """
    name = _name(encoding)
    if not name:
        return body
    if body.file is not None:
        return None
    pieces: list[bytes] = []
    for piece, size in _inflated(body.data, name, limit_bytes):
        if size >= LARGE_BYTES or len(pieces) == _FEW_PIECES:
            return None
        pieces.append(piece)
    return Body(b"".join(pieces))


def decompressed(body: Body, encoding: bytes, limit_bytes: int) -> Body:
    """The body without its Content-Encoding; a large one is in a memory file. Raises as `soon_decompressed` does."""
    name = _name(encoding)
    if not name:
        return body
    pieces = Pieces()
    for piece, _ in _inflated(body.read(), name, limit_bytes):
        pieces.add(piece)
    return pieces.body()


def _name(encoding: bytes) -> str:
    """The encoding's name; empty for none. Raises Unsupported."""
    name = encoding.decode("latin-1").strip().lower()
    if name in ("", "identity"):
        return ""
    if name not in _WINDOW:
        raise Unsupported(
            f"content encoding '{shown(name)}' is not supported: send the body as it is, or with gzip or deflate"
        )
    return name


def _inflated(data: Buffer, name: str, limit_bytes: int) -> Iterator[tuple[bytes, int]]:
    """Pieces of bounded size, each with the size of all so far. gzip data may have several members."""
    left = memoryview(data)
    size = members = 0
    while len(left):
        stream = zlib.decompressobj(_WINDOW[name])
        members += 1
        if members > _MAX_MEMBERS:
            raise InvalidRequest(f"the body's gzip data have more than {_MAX_MEMBERS:,} members")
        given: Buffer = b""
        try:
            while not stream.eof:
                given = stream.unconsumed_tail
                if not given:
                    given, left = left[:_FED_BYTES], left[_FED_BYTES:]
                piece = stream.decompress(given, _STEP_BYTES)
                if not len(given) and not piece and not stream.eof:
                    raise InvalidRequest(f"the body is cut short: its {name} data do not end")
                size += len(piece)
                if size > limit_bytes:
                    raise TooLarge(f"the body has more than {limit_bytes:,} bytes once decompressed (max_request_size)")
                yield piece, size
        except zlib.error as error:
            raise InvalidRequest(f"the body is not {name}, as its content encoding says: {error}") from None
        over = len(stream.unused_data) + len(left)
        left = memoryview(data)[len(data) - over :]
        if over and name != "gzip":
            raise InvalidRequest(f"{over} bytes follow the end of the body's {name} data")


def chosen(accepted: bytes, size: int, *, numbers: bool) -> str:
    """What to compress an answer with, by the client's Accept-Encoding; "" for nothing.

    A client that names one encoding gets it. Libraries name several by themselves; they get compressed what is neither
    small nor large. Binary `numbers` count as large sooner, for they hardly get smaller.
    """
    best, several = _accepted(accepted)
    worth_it = _SMALL_BYTES <= size <= (_LARGE_NUMBERS_BYTES if numbers else _LARGE_BYTES)
    return best if worth_it or not several else ""


@lru_cache(maxsize=128)
def _accepted(header: bytes) -> tuple[str, bool]:
    """The encoding that an Accept-Encoding prefers, "" for none of ours; and whether it accepts several."""
    weights: dict[str, float] = {}
    for item in header.decode("latin-1").lower().split(","):
        name, _, options = item.partition(";")
        weights[name.strip()] = _weight(options)
    others = weights.get("*", 0.0)
    best = max(_WINDOW, key=lambda name: weights.get(name, others))
    weight = weights.get(best, others)
    several = sum(weight > 0 for weight in weights.values()) > 1
    return (best if weight > 0 and weight >= weights.get("identity", 0.0) else ""), several


def compressed(pieces: Sequence[Buffer], encoding: str) -> bytes:
    stream = zlib.compressobj(_LEVEL, wbits=_WINDOW[encoding])
    return b"".join([*(stream.compress(piece) for piece in pieces), stream.flush()])


def _weight(options: str) -> float:
    """The q of one entry; 1 when it has none, 0 when it can't be read."""
    for option in options.split(";"):
        name, _, value = option.partition("=")
        if name.strip() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0
