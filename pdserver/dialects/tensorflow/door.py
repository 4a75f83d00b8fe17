"""Predictions over REST: POST /v1/models/{model}[/versions/{version}|/labels/{label}]:predict, :classify, :regress.

KServe's first protocol has the same paths, and :explain. By its rules are asked: handlers with requests and answers of
their own form, such as pictures and labels; models in an envelope; and rows of models that take no batches, each row by
itself. All else is asked by TensorFlow Serving's rules.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

import msgspec

from pdserver.dialects.base import TIMEOUT_HEADER, Body, Decode, Door, Headers, Response, parse_timeout
from pdserver.dialects.codec import LARGE_BYTES, Codec
from pdserver.dialects.compression import chosen, compressed, soon_decompressed
from pdserver.dialects.tensorflow.answer_json import write
from pdserver.dialects.tensorflow.errors import failed
from pdserver.dialects.tensorflow.examples_json import LongContext, scores_of
from pdserver.dialects.tensorflow.large import read, read_elsewhere, written_elsewhere
from pdserver.dialects.tensorflow.request import Asked, Form, ServingRequest
from pdserver.dialects.tensorflow.served import Models
from pdserver.dialects.tensorflow.target import Target, parse_target
from pdserver.dialects.tensorflow.usual import Usual, usual_of
from pdserver.engine.catalogue import ServedVersion, interface_of
from pdserver.errors import InvalidRequest, PdError
from pdserver.types import Failure, ModelRef, Outcome, Reply, Request

_FORMS: dict[str, Form] = {"predict": "", "classify": "classify", "regress": "regress"}
_JSON = b"application/json"
_SMALLEST_COMPRESSED_BYTES = 512
_NO_LABELS: dict[int, str] = {}


class ServingDoor:
    """Decodes predictions and encodes their outcomes. `kserve` does it for what is asked by KServe's rules.

    `limit_bytes` is the limit of an unpacked body.
    """

    def __init__(self, models: Models, kserve: Door, codec: Codec, limit_bytes: int) -> None:
        self._models = models
        self._kserve = kserve
        self._codec = codec
        self._limit_bytes = limit_bytes

    def matches(self, method: bytes, target: bytes) -> bool:
        try:
            return method == b"POST" and parse_target(target) is not None
        except InvalidRequest:
            return True  # and `prepare` says why

    def prepare(self, target: bytes, headers: Headers) -> Decode:
        named = parse_target(target)
        assert named is not None, "matches() comes first"  # noqa: S101
        model, version, label, verb = named
        meant = self._models.meant
        said = dict(headers)
        timeout_seconds = parse_timeout(said[TIMEOUT_HEADER]) if TIMEOUT_HEADER in said else 0.0
        encoding, accepts = said.get(b"content-encoding", b""), said.get(b"accept-encoding", b"")
        kserve: Decode | None = None
        seen: ServedVersion | None = None
        usual: Usual | None = None
        """Of `seen`."""

        def by_kserve(served: ServedVersion, headers: Headers, body: Body, id: str) -> Request | asyncio.Task[Request]:
            nonlocal kserve
            kserve = kserve or self._kserve.prepare(target, headers)
            request = kserve(headers, body, id)
            return _of_version(request, served.spec.version) if version or label else request

        def decode(headers: Headers, body: Body, request_id: str) -> Request | asyncio.Task[Request]:
            nonlocal seen, usual
            served = meant(model, version, label)
            if served is not seen:
                seen, usual = served, None if encoding else _usual_of(named, served)
            if usual is not None and body.file is None and len(body.data) < LARGE_BYTES:
                request = usual.read(body.data, headers, request_id, accepts, timeout_seconds)
                if request is not None:
                    return request
            if _is_kserves(named, served):
                return by_kserve(served, headers, body, request_id)
            interface = interface_of(served)
            plain = soon_decompressed(body, encoding, self._limit_bytes) if encoding else body
            if not interface.batched and verb == "predict" and _has_rows(plain):
                return by_kserve(served, headers, body, request_id)
            asked = Asked(served.spec, interface, headers, request_id, accepts, timeout_seconds)
            if plain is not None and not plain.is_large:
                with suppress(LongContext):
                    return read(asked, _FORMS[verb], plain.data, LARGE_BYTES)
            return asyncio.ensure_future(self._read_elsewhere(asked, _FORMS[verb], body, encoding))

        return decode

    async def _read_elsewhere(self, asked: Asked, form: Form, body: Body, encoding: bytes) -> Request:
        request, files = await read_elsewhere(self._codec, asked, form, body, encoding, self._limit_bytes)
        body.kept.extend(files)
        return request

    def encode(self, request: Request, outcome: Outcome) -> Response | asyncio.Task[Response]:
        if type(outcome) is not Reply:
            assert isinstance(outcome, Failure)  # noqa: S101
            return failed(outcome)
        if type(request) is not ServingRequest:
            return self._kserve.encode(request, outcome)
        labels = self._labels(request) if request.form == "classify" else _NO_LABELS
        try:
            size = 0
            for tensor in outcome.tensors:
                size += len(tensor.data)
            if size >= LARGE_BYTES:
                return asyncio.ensure_future(self._write_elsewhere(request, outcome, labels, size))
            data = write(request, outcome, labels)
        except PdError as error:
            return failed(Failure.of(error))
        encoding = _encoding_of(request, len(data)) if request.accepts else ""
        return _answered(compressed([data], encoding), encoding) if encoding else Response(200, _JSON, data)

    async def _write_elsewhere(
        self, request: ServingRequest, reply: Reply, labels: dict[int, str], size: int
    ) -> Response:
        encoding = _encoding_of(request, size) if request.accepts else ""
        try:
            data = await written_elsewhere(self._codec, request, reply, labels, encoding)
        except PdError as error:
            return failed(Failure.of(error))
        return _answered(data, encoding)

    def encode_chunk(self, request: Request, piece: Reply) -> Response | asyncio.Task[Response]:
        """One answer after the other: the protocol has no streams, but readers of lines can tell them apart."""
        if not isinstance(request, ServingRequest):
            return self._kserve.encode_chunk(request, piece)
        response = self.encode(msgspec.structs.replace(request, accepts=b""), piece)
        return _line(response) if isinstance(response, Response) else asyncio.ensure_future(_awaited_line(response))

    def _labels(self, request: ServingRequest) -> dict[int, str]:
        """Those of the version that was asked, if that has not failed."""
        try:
            served = self._models.catalogue.answering(ModelRef(request.model, request.version or ""))
            return scores_of(interface_of(served), "classify").labels
        except PdError:
            return _NO_LABELS


def _usual_of(named: Target, served: ServedVersion) -> Usual | None:
    """What reads the usual requests with this target; None if there are none."""
    if named.verb != "predict" or served.interface is None or _is_kserves(named, served):
        return None
    return usual_of(served.spec, served.interface)


def _is_kserves(named: Target, served: ServedVersion) -> bool:
    if named.verb == "predict":
        return bool(served.spec.service_envelope) or (served.interface is not None and served.interface.opaque)
    return named.verb == "explain"


class _Keys(msgspec.Struct, gc=False):
    inputs: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_read_keys = msgspec.json.Decoder(_Keys).decode


def _has_rows(body: Body | None) -> bool:
    """Whether a body has no "inputs"; None is one that is large and compressed, which rows must not be."""
    try:
        return body is None or _read_keys(body.read()).inputs is msgspec.UNSET
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return True


def _of_version(read: Request | asyncio.Task[Request], version: str) -> Request | asyncio.Task[Request]:
    """The request, for the version that was found by its number or label."""
    if isinstance(read, Request):
        return msgspec.structs.replace(read, version=version)

    async def once_read() -> Request:
        return msgspec.structs.replace(await read, version=version)

    return asyncio.ensure_future(once_read())


def _encoding_of(request: ServingRequest, size: int) -> str:
    """What to compress an answer of `size` bytes with; empty: nothing."""
    return chosen(request.accepts, size, numbers=False) if size >= _SMALLEST_COMPRESSED_BYTES else ""


def _answered(data: bytes | memoryview, encoding: str) -> Response:
    headers = [(b"content-encoding", encoding.encode())] if encoding else []
    return Response(200, _JSON, data, headers)  # type: ignore[arg-type]  # any bytes-like object


def _line(response: Response) -> Response:
    return msgspec.structs.replace(response, body=bytes(response.body) + b"\n")


async def _awaited_line(response: asyncio.Task[Response]) -> Response:
    return _line(await response)
