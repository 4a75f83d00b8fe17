"""Base64 as clients write it: plain or URL-safe, with or without padding and line breaks, or as a data URI."""

from __future__ import annotations

import base64
import binascii
from urllib.parse import unquote_to_bytes

from pdserver.errors import InvalidRequest

_URL_SAFE = bytes.maketrans(b"-_", b"+/")


def from_base64(text: str) -> bytes:
    """Raises InvalidRequest, which repeats nothing of the text."""
    try:
        data = text.encode("ascii")
        if data[:5].lower() == b"data:":
            return _of_data_uri(data)
        return _decoded(data)
    except (binascii.Error, ValueError):
        raise InvalidRequest("expected base64, plain or URL-safe, or a data URI (data:image/png;base64,…)") from None


def _of_data_uri(data: bytes) -> bytes:
    """Source: RFC 2397."""
    head, comma, content = data.partition(b",")
    if not comma:
        raise ValueError
    content = unquote_to_bytes(content)
    return _decoded(content) if head.lower().endswith(b";base64") else content


def _decoded(data: bytes) -> bytes:
    data = data.translate(_URL_SAFE, b"\r\n").rstrip(b"=")
    return base64.b64decode(data + b"=" * (-len(data) % 4), validate=True)
