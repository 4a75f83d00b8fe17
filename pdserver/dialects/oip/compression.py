"""Bodies that are compressed with gzip or deflate, both ways.

"deflate" is zlib's format (RFC 9110, 8.4.1.2). Whatever the client says, what comes out of a body is bounded.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from functools import lru_cache

from pdserver.dialects.base import Body
from pdserver.errors import InvalidRequest, TooLarge, Unsupported
from pdserver.memory_file import THRESHOLD_BYTES, Buffer, MemoryFile, view
from pdserver.values import shown

_WINDOW = {"gzip": 31, "deflate": 15}
"""zlib's word for the two formats."""
_STEP_BYTES = 1 << 20
_LEVEL = 1
"""Tensors hardly get smaller by trying harder."""
_SMALL_BYTES = 1024
"""Compressing less takes longer than sending it."""
_LARGE_NUMBERS_BYTES = 64 * 1024
_LARGE_BYTES = 1024 * 1024
"""Compressing more takes as long as many an inference."""


def decompressed(body: Body, encoding: bytes, limit_bytes: int) -> Body:
    """The body without its Content-Encoding; a large one is in a memory file that `body` keeps.

    Raises Unsupported for another encoding, InvalidRequest for data that are not what it says, TooLarge.
    """
    name = encoding.decode("latin-1").strip().lower()
    if name in ("", "identity"):
        return body
    if name not in _WINDOW:
        raise Unsupported(
            f"content encoding '{shown(name)}' is not supported: send the body as it is, or with gzip or deflate"
        )
    data = view(body.file) if body.file >= 0 else memoryview(body.data)
    pieces: list[bytes] = []
    file: MemoryFile | None = None
    size = 0
    for piece in _inflated(data, name):
        size += len(piece)
        if size > limit_bytes:
            raise TooLarge(f"the body has more than {limit_bytes:,} bytes once decompressed (max_request_size)")
        if file is not None:
            file.append(piece)
            continue
        pieces.append(piece)
        if size >= THRESHOLD_BYTES:
            file = MemoryFile(pieces)
            body.kept.append(file)
    return Body(b"".join(pieces), -1, body.kept) if file is None else Body(b"", file.seal(), body.kept)


def _inflated(data: memoryview, name: str) -> Iterable[bytes]:
    """In pieces of bounded size; several members of gzip one after the other."""
    left: Buffer = data
    while len(left):
        stream = zlib.decompressobj(_WINDOW[name])
        try:
            while not stream.eof:
                piece = stream.decompress(left, _STEP_BYTES)
                left = stream.unconsumed_tail
                if not piece and not len(left) and not stream.eof:
                    raise InvalidRequest(f"the body is cut short: its {name} data do not end")
                yield piece
        except zlib.error as error:
            raise InvalidRequest(f"the body is not {name}, as its content encoding says: {error}") from None
        left = stream.unused_data
        if len(left) and name != "gzip":
            raise InvalidRequest(f"{len(left)} bytes follow the end of the body's {name} data")


def chosen(accepted: bytes, size: int, *, numbers: bool) -> str:
    """What to compress an answer with, by the client's Accept-Encoding; "" for nothing.

    A client that names one encoding is given it. Libraries accept several without being asked: for them, only what is
    neither small nor large is compressed, and binary `numbers` are large sooner, for they hardly get smaller.
    """
    best, several = _accepted(accepted)
    worth_it = _SMALL_BYTES <= size <= (_LARGE_NUMBERS_BYTES if numbers else _LARGE_BYTES)
    return best if worth_it or not several else ""


@lru_cache(maxsize=128)
def _accepted(header: bytes) -> tuple[str, bool]:
    """The encoding that an Accept-Encoding prefers, "" for none of ours; and whether it names several."""
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
