"""Predictions over HTTP: POST /{task}[?model={name}], to a pipeline whose contract is `paddlex/{task}`.

The pipeline has an input `image` (or `file`), and perhaps `parameters`, which gets all other fields as JSON. Its output
is `result`.
"""

from __future__ import annotations

import asyncio
import os
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import parse_qs

import msgspec

from pdserver.dialects.base import TIMEOUT_HEADER, Body, Decode, Headers, Response, parse_timeout
from pdserver.dialects.codec import Codec
from pdserver.dialects.paddlex.answers import answered, failed
from pdserver.dialects.paddlex.bodies import TASKS, Given, read_body
from pdserver.dialects.paddlex.large import read_elsewhere
from pdserver.dialects.paddlex.urls import Pictures
from pdserver.dialects.request_id import request_id
from pdserver.engine.catalogue import Catalogue, ServedVersion, interface_of
from pdserver.errors import HandlerFailed, InvalidRequest, Missing, ModelNotFound
from pdserver.formats.values import listed, shown
from pdserver.memory_file import THRESHOLD_BYTES, MemoryFile
from pdserver.pipeline.values import BINARY, JSON
from pdserver.types import Failure, Outcome, Part, Reply, Request, Tensor

CONTRACTS = "paddlex/"
PARAMETERS = "parameters"
_SOURCES = ("image", "file")
_QUERY = "model"


class Target(NamedTuple):
    """What a URL names."""

    task: str
    model: str
    """Empty: whichever pipeline has the contract."""


class PipelineRequest(Request, frozen=True, array_like=True, gc=False):
    """A request, with what only the writer of its answer needs."""

    alone: bool = True
    """Whether the pipeline has one output."""


class PaddlexDoor:
    """Decodes requests, and encodes their outcomes."""

    def __init__(self, catalogue: Catalogue, codec: Codec, pictures: Pictures) -> None:
        self._catalogue = catalogue
        self._codec = codec
        self._pictures = pictures

    def matches(self, method: bytes, target: bytes) -> bool:
        return method == b"POST" and read_target(target) is not None

    def prepare(self, target: bytes, headers: Headers) -> Decode:
        named = read_target(target)
        assert named is not None, "matches() comes first"  # noqa: S101
        said = dict(headers)
        timeout_seconds = parse_timeout(said[TIMEOUT_HEADER]) if TIMEOUT_HEADER in said else 0.0
        encoding = said.get(b"content-encoding", b"identity").lower()
        if encoding != b"identity":
            raise InvalidRequest(f"Content-Encoding: {shown(encoding.decode('latin-1'))}: send the body as it is")

        def decode(headers: Headers, body: Body, own_id: str) -> Request | asyncio.Task[Request]:
            served = self._find(named)
            plain = PipelineRequest(
                served.spec.name, served.spec.version, own_id, [], headers, timeout_seconds=timeout_seconds
            )
            if body.is_large:
                return asyncio.ensure_future(self._read_large(plain, served, named.task, body))
            given = read_body(named.task, body.data)
            if given.url:
                return asyncio.ensure_future(self._fetch(plain, served, given, body))
            return _request(plain, served, given, given.picture, body)

        return decode

    def _find(self, named: Target) -> ServedVersion:
        """Raises ModelNotFound or VersionNotFound for no such pipeline, InvalidRequest for a model of another kind."""
        contract = f"{CONTRACTS}{named.task}"
        if named.model:
            served = self._catalogue.asked(named.model, None)
            if served.contract != contract:
                raise InvalidRequest(f"model {shown(named.model)!r} is no pipeline with the contract {contract}")
            return served
        fitting = [model.default for model in self._catalogue if model.default.contract == contract]
        if not fitting:
            raise ModelNotFound(
                f"no pipeline is served here: one that is has `contract: {contract}` in its pipeline.yaml",
                Missing("", None, contract),
            )
        return min(fitting, key=lambda served: served.spec.name)

    async def _read_large(self, plain: PipelineRequest, served: ServedVersion, task: str, body: Body) -> Request:
        given, files = await read_elsewhere(self._codec, task, body)
        if given.url:
            return await self._fetch(plain, served, given, body)
        return _request(plain, served, given, files[0], body)

    async def _fetch(self, plain: PipelineRequest, served: ServedVersion, given: Given, body: Body) -> Request:
        return _request(plain, served, given, await self._pictures.fetched(given.url), body)

    def encode(self, request: Request, outcome: Outcome) -> Response:
        if isinstance(outcome, Failure):
            return failed(outcome, request.id)
        assert isinstance(request, PipelineRequest)  # noqa: S101
        return answered(outcome, request.id, alone=request.alone)

    def encode_chunk(self, request: Request, piece: Reply) -> Response:
        """A whole answer for each piece: PaddleX has no streams."""
        return self.encode(request, piece)


def _request(
    plain: PipelineRequest, served: ServedVersion, given: Given, picture: bytes | MemoryFile, body: Body
) -> PipelineRequest:
    """`body` keeps the file. Raises InvalidRequest for a pipeline that does not keep to its contract."""
    interface = interface_of(served)
    names = [port.name for port in interface.inputs]
    source = next((name for name in _SOURCES if name in names), None)
    if source is None:
        raise HandlerFailed(
            f"the pipeline has no input {' or '.join(_SOURCES)}, which its contract has: {listed(names)}"
        )
    if given.is_pdf and PARAMETERS not in names:
        raise InvalidRequest("fileType: 0: this pipeline takes pictures only: send one, with fileType 1")
    if isinstance(picture, bytes) and len(picture) >= THRESHOLD_BYTES:
        picture = MemoryFile([picture])
        picture.seal()
    files: list[int] = []
    if isinstance(picture, bytes):
        inputs: list[Part | Tensor] = [Part(source, BINARY, picture)]
    else:
        body.kept.append(picture)
        files.append(picture.fd)
        inputs = [Part(source, BINARY, b"", 0, 0, os.fstat(picture.fd).st_size)]
    if PARAMETERS in names:
        inputs.append(Part(PARAMETERS, JSON, given.fields))
    own_id = request_id(given.log_id.encode()) if given.log_id else plain.id
    alone = len(interface.outputs) == 1
    return msgspec.structs.replace(plain, id=own_id, inputs=inputs, files=files, alone=alone)


@lru_cache(maxsize=1024)
def read_target(target: bytes) -> Target | None:
    """None for a URL of another form."""
    path, _, query = target.partition(b"?")
    task = path.removeprefix(b"/").removesuffix(b"/").decode("latin-1")
    if task not in TASKS:
        return None
    models = parse_qs(query.decode("latin-1")).get(_QUERY) or [""]
    return Target(task, models[-1])
