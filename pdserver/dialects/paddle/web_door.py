"""The web services' predictions over HTTP: POST /{model}/{method}.

Pipeline never looks at the method, whose usual name is `prediction`. So any path of two segments is Pipeline's, if the
first one is a model that is served. Of others, those with the usual method are told in its way that there is no such
model.
"""

from __future__ import annotations

import asyncio
import re
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from pdserver.dialects.base import TIMEOUT_HEADER, Body, Decode, Headers, Response, parse_timeout
from pdserver.dialects.codec import Codec
from pdserver.dialects.paddle.web import asks_old_service, is_long_answer, read_body, response_of
from pdserver.dialects.paddle.web_large import read_elsewhere, written_elsewhere
from pdserver.dialects.paddle.web_request import Known, Malformed, WebRequest
from pdserver.engine.catalogue import Catalogue, ServedVersion, interface_of
from pdserver.errors import Missing, ModelNotFound, PdError
from pdserver.formats.values import shown
from pdserver.types import Failure, Outcome, Reply, Request

METHOD = "prediction"
_TARGET = re.compile(rb"/([^/?]+)/([^/?]+)/?(?:\?.*)?", re.DOTALL)


class Target(NamedTuple):
    """What a URL names."""

    model: str
    method: str


class WebDoor:
    """Decodes requests of both services, and encodes their outcomes."""

    def __init__(self, catalogue: Catalogue, codec: Codec) -> None:
        self._catalogue = catalogue
        self._codec = codec

    def matches(self, method: bytes, target: bytes) -> bool:
        named = web_target(target) if method == b"POST" else None
        return named is not None and (named.method == METHOD or self._is_known(named.model))

    def _is_known(self, model: str) -> bool:
        """Whether this server, or another one, serves a model of this name."""
        return self._catalogue.knows(model) or self._catalogue.elsewhere.serves(Missing(model))

    def prepare(self, target: bytes, headers: Headers) -> Decode:
        named = web_target(target)
        assert named is not None, "matches() comes first"  # noqa: S101
        said = dict(headers)
        encoding = said.get(b"content-encoding", b"identity").lower()
        timeout_seconds = parse_timeout(said[TIMEOUT_HEADER]) if TIMEOUT_HEADER in said else 0.0
        if encoding != b"identity":
            raise Malformed(f"Content-Encoding: {shown(encoding.decode('latin-1'))}: send the body as it is")
        either = named.method == METHOD

        def decode(headers: Headers, body: Body, request_id: str) -> Request | asyncio.Task[Request]:
            served = self._find(named, body)
            known = Known(served.spec, interface_of(served), headers, request_id, timeout_seconds)
            if body.is_large:
                return asyncio.ensure_future(self._read_elsewhere(known, body, either=either))
            return read_body(known, body.data, either=either)

        return decode

    def _find(self, named: Target, body: Body) -> ServedVersion:
        """Raises ModelNotFound, VersionNotFound."""
        try:
            return self._catalogue.asked(named.model, None)
        except ModelNotFound as error:
            if named.method == METHOD and not body.is_large and asks_old_service(body.data):
                error.status = 404
            raise

    async def _read_elsewhere(self, known: Known, body: Body, *, either: bool) -> Request:
        request, files = await read_elsewhere(self._codec, known, body, either=either)
        body.kept.extend(files)
        return request

    def encode(self, request: Request, outcome: Outcome) -> Response | asyncio.Task[Response]:
        try:
            if isinstance(outcome, Reply) and isinstance(request, WebRequest) and is_long_answer(outcome):
                return asyncio.ensure_future(self._write_elsewhere(request, outcome))
            return response_of(request, outcome)
        except PdError as error:
            return response_of(request, Failure.of(error))

    async def _write_elsewhere(self, request: WebRequest, reply: Reply) -> Response:
        try:
            return await written_elsewhere(self._codec, request, reply)
        except PdError as error:
            return response_of(request, Failure.of(error))

    def encode_chunk(self, request: Request, piece: Reply) -> Response | asyncio.Task[Response]:
        """A whole answer for each piece: the services have no streams."""
        return self.encode(request, piece)


@lru_cache(maxsize=1024)
def web_target(target: bytes) -> Target | None:
    """None for a URL of another form, and for one that is not UTF-8."""
    match = _TARGET.fullmatch(target)
    if match is None:
        return None
    try:
        return Target(*(unquote_to_bytes(part).decode() for part in match.groups()))
    except UnicodeDecodeError:
        return None
