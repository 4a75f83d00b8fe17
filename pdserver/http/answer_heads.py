"""Heads of answers. All but the request's id and the body's length is made once a second, for the date."""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from pdserver.dialects.base import Headers, Response

LENGTH = b"content-length: %d\r\n"
_MOST = 100
_NO_STORE = (b"cache-control", b"no-store")
_CLOSE = b"connection: close\r\n"
_KEEP_ALIVE = b"connection: keep-alive\r\n"


class AnswerHeads:
    """A bounded cache of what answers of one port begin with."""

    def __init__(self) -> None:
        self._common: Headers = []
        self._made: dict[tuple[Any, ...], bytes] = {}

    def of(self, common: Headers, response: Response, length: bytes, kept: bool, told: bool) -> bytes:
        """The answer's head as a template for `%`, to be filled with the request's id, and the length if `length` is
        LENGTH. `length` is the header that says where the body ends.

        `common` are the headers of all answers; a changed list is another list. `kept` says whether the connection is
        kept. If it is, the head says so only with `told`: clients of HTTP/1.0 have to be told.
        """
        if common is not self._common:
            self._common = common
            self._made = {}
        key: tuple[Any, ...] = (response.status, response.content_type, length, kept, told)
        if response.headers or response.reason:
            key = (*key, response.reason, *response.headers)
        made = self._made.get(key)
        if made is None:
            if len(self._made) >= _MOST:
                self._made = {}
            made = self._made[key] = _template(common, response, length, kept, told)
        return made


def _template(common: Headers, response: Response, length: bytes, kept: bool, told: bool) -> bytes:
    status = STATUS_LINE[response.status] if not response.reason else _status_line(response)
    connection = _CLOSE if not kept else _KEEP_ALIVE if told else b""
    return b"".join([
        _escaped(status), _lines([*common, _NO_STORE]), b"x-request-id: %b\r\n",
        _lines([(b"content-type", response.content_type)]), length, _lines(response.headers), connection, b"\r\n",
    ])  # fmt: skip


def _lines(headers: Headers) -> bytes:
    return _escaped(b"".join([b"%b: %b\r\n" % header for header in headers]))


def _status_line(response: Response) -> bytes:
    return b"HTTP/1.1 %d %b\r\n" % (response.status, response.reason)


def _escaped(text: bytes) -> bytes:
    return text.replace(b"%", b"%%")
