"""The Open Inference Protocol's inference over REST: POST /v2/models/{model}[/versions/{version}]/infer.

Models with the service envelope `kservev2` are given the body as it is; they alone have …/explain, as with TorchServe.
"""

from __future__ import annotations

import asyncio
import re
from functools import lru_cache
from typing import Literal, NamedTuple
from urllib.parse import unquote_to_bytes

import msgspec

from pdserver.dialects.base import Body, Decode, Door, Headers, Response
from pdserver.dialects.beside import request_by, slim
from pdserver.dialects.compression import soon_decompressed
from pdserver.dialects.oip.inference import answered, failed, is_long, is_long_answer, read_request
from pdserver.dialects.oip.known import KnownInferences
from pdserver.dialects.oip.large import READ, WRITE, Inference, beside
from pdserver.dialects.oip.protocol import OpenInference
from pdserver.dialects.oip.request import InferRequest
from pdserver.engine.catalogue import interface_of
from pdserver.errors import InvalidRequest, PdError, Unsupported
from pdserver.formats.values import shown
from pdserver.memory_file import view
from pdserver.types import Failure, Outcome, Reply, Request

ENVELOPE = "kservev2"
_INFER = re.compile(rb"/v2/models/([^/?]+)(?:/versions/([^/?]+))?/(infer|explain)/?(?:\?.*)?", re.DOTALL)


class Target(NamedTuple):
    """What a URL names; `version` None is the default version."""

    model: str
    version: str | None = None
    verb: Literal["predict", "explain"] = "predict"


class OipDoor:
    """Decodes inferences and encodes their outcomes; `enveloped` does it for models in this protocol's envelope."""

    def __init__(self, protocol: OpenInference, enveloped: Door) -> None:
        self._enveloped = enveloped
        self._find = protocol.find
        self._regions = protocol.regions
        self._codec = protocol.codec
        self._limit_bytes = protocol.limit_bytes
        self._known = KnownInferences()

    def matches(self, method: bytes, target: bytes) -> bool:
        return method == b"POST" and infer_target(target) is not None

    def prepare(self, target: bytes, headers: Headers) -> Decode:
        named = infer_target(target)
        assert named is not None, "matches() comes first"  # noqa: S101
        lengths = tuple(value for name, value in headers if name == b"inference-header-content-length")
        said = dict(headers)
        encoding, accepts = said.get(b"content-encoding", b""), said.get(b"accept-encoding", b"")

        def decode(headers: Headers, body: Body, request_id: str) -> Request | asyncio.Task[Request]:
            served = self._find(named.model, named.version)
            if served.spec.service_envelope == ENVELOPE:
                return self._enveloped.prepare(target, headers)(headers, body, request_id)
            if named.verb == "explain":
                raise Unsupported(
                    f"'{shown(named.model)}' is not in the envelope {ENVELOPE} (service_envelope), which explanations "
                    "of this protocol need; there is /explanations/{model}"
                )
            head_bytes = _head_bytes(lengths) if lengths else None
            can_be_known = head_bytes != 0 and body.file is None and not encoding
            if can_be_known and (
                known := self._known.find(served, headers, body.data, head_bytes, request_id, accepts)
            ):
                return known
            interface = interface_of(served)
            plain = soon_decompressed(body, encoding, self._limit_bytes) if encoding else body
            if plain is None or (plain.is_large and is_long(head_bytes, interface)):
                given = Inference(
                    slim(served.spec), interface, headers, body.data, head_bytes, request_id, accepts, encoding,
                    self._limit_bytes,
                )  # fmt: skip
                return asyncio.ensure_future(self._read_elsewhere(given, body))
            request = read_request(served.spec, interface, headers, plain, head_bytes, request_id, accepts)
            if can_be_known:
                self._known.learn(served, headers, body.data, head_bytes, request)
            if request.shared:
                self._regions.settle(request, body.kept)
            return request

        return decode

    async def _read_elsewhere(self, given: Inference, body: Body) -> Request:
        weight = self._limit_bytes if given.encoding else 0  # its size is not known before it is unpacked
        request, files = await request_by(self._codec, READ, given, body.files, weight)
        body.kept.extend(files)
        self._regions.settle(request, body.kept)
        return request

    def encode(self, request: Request, outcome: Outcome, *, last: bool = True) -> Response | asyncio.Task[Response]:
        if type(request) is Request and request.model:
            return self._enveloped.encode(request, outcome)
        if not isinstance(outcome, Reply):
            if isinstance(request, InferRequest):
                self._regions.done(request)
            return failed(outcome)
        assert isinstance(request, InferRequest)  # noqa: S101
        try:
            if request.shared:
                self._place(request, outcome, last=last)
            if is_long_answer(request, outcome):
                return asyncio.ensure_future(self._write_elsewhere(request, outcome))
            return answered(request, outcome)
        except PdError as error:
            return failed(Failure.of(error))

    def _place(self, request: InferRequest, reply: Reply, *, last: bool) -> None:
        try:
            self._regions.place_all(request, reply.tensors)
        finally:
            if last:
                self._regions.done(request)

    async def _write_elsewhere(self, request: InferRequest, reply: Reply) -> Response:
        try:
            answer, files = await beside(self._codec, request, reply)
            response, files = await self._codec.run(WRITE, answer, files)
        except PdError as error:
            return failed(Failure.of(error))
        return msgspec.structs.replace(response, body=view(files[0].fd))

    def encode_chunk(self, request: Request, piece: Reply) -> Response | asyncio.Task[Response]:
        """An inference response on a line of its own: the protocol has no streams but those of `generate`."""
        if type(request) is Request:
            return self._enveloped.encode_chunk(request, piece)
        response = self.encode(request, piece, last=False)
        return _line(response) if isinstance(response, Response) else asyncio.ensure_future(_awaited_line(response))


def _line(response: Response) -> Response:
    return msgspec.structs.replace(response, body=b"".join([response.body, *response.more, b"\n"]), more=())


async def _awaited_line(response: asyncio.Task[Response]) -> Response:
    return _line(await response)


@lru_cache(maxsize=1024)
def infer_target(target: bytes) -> Target | None:
    """None for a URL that is no inference, and for one that is not UTF-8."""
    match = _INFER.fullmatch(target)
    if match is None:
        return None
    try:
        model, version = (unquote_to_bytes(part).decode() if part else None for part in match.groups()[:2])
    except UnicodeDecodeError:
        return None
    return Target(model or "", version, "explain" if match[3] == b"explain" else "predict")


@lru_cache(maxsize=1024)
def _head_bytes(lengths: tuple[bytes, ...]) -> int:
    """The last of these headers. Raises InvalidRequest."""
    for value in lengths:
        if not value.isdigit() or len(value) > 18:
            raise InvalidRequest(
                f"Invalid Inference-Header-Content-Length '{shown(value.decode('latin-1'))}': expected the length in "
                "bytes of the JSON at the body's beginning, or 0 for a raw request"
            )
    return int(lengths[-1])
