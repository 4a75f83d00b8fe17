"""Heads of predictions that need not be parsed again.

A client sends the same head with every request of a connection, and many clients send the same one. If a request came
whole and in one piece, the bytes before the body determine all that the parser would find, so they need parsing only
once. Parsing takes two thirds of the front end's own time for a small request.

Some headers have a value of their own in each request. Where such a value has the length that it had when the head was
parsed, and only characters that cannot end it, all else in the head means the same. So these values are left out of
what is compared. Of a token, only the hash is kept.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any, NamedTuple, cast

import msgspec

from pdserver.configuration.tokens import Token, digest
from pdserver.dialects.base import Decode, Door, Headers
from pdserver.dialects.request_id import request_id
from pdserver.security.keyring import Keyring

_MOST = 1000
_MOST_LAYOUTS = 8
"""Of heads of the same length."""
_MAX_BYTES = 2048
_END = b"\r\n\r\n"
_ID = b"x-request-id"
_OWN = frozenset({_ID, b"traceparent"})
"""The headers whose values differ from request to request, besides the token."""
_OWN_LINE = re.compile(
    rb"(?<=\r\n)(?:authorization: bearer (?P<token>[\x21-\x7e]{1,512})"
    rb"|(?:x-request-id|traceparent): (?P<value>[\x21-\x7e]{1,128}))(?=\r\n)",
    re.IGNORECASE,
)
_VISIBLE = bytes(range(0x21, 0x7F))


class KnownHead(msgspec.Struct, frozen=True, gc=False):
    """The parsed head of a prediction in HTTP/1.1, on a kept connection, with a body of known length."""

    door: Door
    decode: Decode
    method: bytes
    target: bytes
    headers: Headers
    """Must not be changed: later requests share them."""
    length: int
    """The body's length in bytes."""
    until: float = math.inf
    """When its token expires, in seconds since 1970."""
    own: tuple[tuple[int, bytes], ...] = ()
    """The headers that each request brings itself, by index and name, as its layout has their values."""


class _Layout(NamedTuple):
    """Where in a head the values are that each request has for itself."""

    key: Callable[[bytes], tuple[bytes, ...]]
    """What a head is known by: the pieces around the values, and the token's hash."""
    own: tuple[slice, ...]
    token: slice | None

    @classmethod
    def of(cls, own: tuple[slice, ...], token: slice | None, end: int) -> _Layout:
        """The layout of a head of `end` bytes."""
        pieces, start = [], 0
        for place in sorted([*own, *([] if token is None else [token])], key=lambda place: place.start):
            pieces.append(slice(start, place.start))
            start = place.stop
        around = cast(Any, itemgetter)(*pieces, slice(start, end))
        return cls(around if token is None else lambda data: (*around(data), digest(data[token])), own, token)


class KnownHeads:
    """A bounded cache of parsed heads. It is cleared when it is full, and when the valid tokens change."""

    def __init__(self, keyring: Keyring | None = None) -> None:
        """With a `keyring`, all requests need a token."""
        self._heads: dict[bytes | tuple[bytes, ...], KnownHead] = {}
        """By the whole head; or by the pieces around its own values, and the token's hash."""
        self._layouts: dict[int, list[_Layout]] = {}
        """By the head's length."""
        self._keyring = keyring
        self._tokens: Sequence[Token] = ()
        """The tokens that were valid when the heads were learned, unless they have expired."""

    def find(self, data: bytes) -> tuple[KnownHead, Headers, str, bytes] | None:
        """The head, the headers, the id and the body, if `data` is exactly one request whose head is known."""
        if self._keyring is not None and self._keyring.tokens is not self._tokens:
            self._clear()
        end = data.find(_END, 0, _MAX_BYTES) + len(_END)
        head = self._heads.get(data[:end])
        if head is not None:
            return None if len(data) - end != head.length else (head, head.headers, request_id(), data[end:])
        for key, places, _ in self._layouts.get(end, ()):
            head = self._heads.get(key(data))
            if head is None:
                continue
            if len(data) - end != head.length or head.until <= time.time():
                return None
            headers = head.headers.copy()
            given = b""
            for (index, name), place in zip(head.own, places):  # noqa: B905 - saying that they are as many takes time
                value = data[place]
                if value.translate(None, _VISIBLE):
                    return None
                headers[index] = (name, value)
                if name == _ID:
                    given = value
            return head, headers, given.decode() or request_id(), data[end:]
        return None

    def learn(self, data: bytes, head: KnownHead, authorization: bytes | None = None) -> None:
        """Keep `head`, if `data` is exactly the one request that it was parsed from.

        `authorization` is the header with its token, which is not among `head.headers`. The token is valid.
        """
        end = data.find(_END, 0, _MAX_BYTES) + len(_END)
        if end < len(_END) or len(data) - end != head.length:
            return
        if self._keyring is not None and authorization is None:
            return
        found = _find_own(data, end, head.headers, authorization)
        if found is None:
            return
        if len(self._heads) >= _MOST:
            self._clear()
        own, places, token = found
        if not places and token is None:
            self._heads[data[:end]] = head
            return
        layout = _Layout.of(places, token, end)
        layouts = self._layouts.setdefault(end, [])
        if layout[1:] not in [each[1:] for each in layouts]:
            del layouts[: -_MOST_LAYOUTS + 1]
            layouts.append(layout)
        self._heads[layout.key(data)] = msgspec.structs.replace(head, own=own)

    def _clear(self) -> None:
        self._heads.clear()
        self._layouts.clear()
        self._tokens = () if self._keyring is None else self._keyring.tokens


def _find_own(
    data: bytes, end: int, headers: Headers, authorization: bytes | None
) -> tuple[tuple[tuple[int, bytes], ...], tuple[slice, ...], slice | None] | None:
    """The headers of _OWN, by index and name; where their values are in `data`; and where the token is. None if one of
    them is not as expected, or comes twice."""
    own, places, token = [], [], None
    for line in _OWN_LINE.finditer(data, 0, end):
        name, _, value = line[0].partition(b": ")
        header = (name.lower(), value)
        if line["token"] is not None:
            token = slice(*line.span("token")) if value == authorization else None
        elif header not in headers:
            return None
        else:
            own.append((headers.index(header), header[0]))
            places.append(slice(*line.span("value")))
    names = sorted(name for name, _ in headers if name in _OWN)
    if (
        names != sorted({name for _, name in own})
        or len(names) != len(own)
        or (token is None) != (authorization is None)
    ):
        return None
    return tuple(own), tuple(places), token
