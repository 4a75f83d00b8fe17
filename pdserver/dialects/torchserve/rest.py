"""TorchServe's inference API over REST, and the form of it that SageMaker uses.

/predictions/{model}[/{version}[/{path}]]     /explanations/{model}[/{version}[/{path}]]
/models/{model}/invoke   /invocations[?model_name={model}]   /{model}[/{version}]/predict
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import lru_cache
from typing import Literal, NamedTuple
from urllib.parse import unquote_to_bytes

import msgspec

from pdserver.dialects.base import TIMEOUT_HEADER, Body, Decode, Door, Headers, Response, parse_timeout, retry_headers
from pdserver.dialects.beside import request_by
from pdserver.dialects.codec import Codec
from pdserver.dialects.torchserve.body import may_be_form, read_body
from pdserver.dialects.torchserve.errors import failure_json
from pdserver.dialects.torchserve.forms import parse_form
from pdserver.dialects.torchserve.large import READ, Form
from pdserver.errors import InvalidRequest
from pdserver.formats.values import shown
from pdserver.types import Failure, Outcome, Parameter, Part, Reply, Request, Tensor

Verb = Literal["predict", "explain"]
_METHODS = frozenset({b"POST", b"GET", b"PUT"})
_NO_FILES: list[int] = []
_NO_PARAMETERS: dict[str, Parameter] = {}
_EVENT_STREAM = b"text/event-stream"


class Target(NamedTuple):
    """What a URL names. `version` None is the default version, `path` what follows."""

    model: str
    version: str | None = None
    path: str = ""
    verb: Verb = "predict"
    envelope: str = ""
    """How the body wraps the inputs, when the URL says it."""


class TorchServeDoor:
    """Decodes predictions and encodes their outcomes; `parse` takes a request target apart. `with_query`: handlers are
    shown the query."""

    def __init__(self, codec: Codec, parse: Callable[[bytes], Target | None], *, with_query: bool = False) -> None:
        self._codec = codec
        self._parse = parse
        self._with_query = with_query

    def matches(self, method: bytes, target: bytes) -> bool:
        try:
            return method in _METHODS and self._parse(target) is not None
        except InvalidRequest:
            return True  # and `decode` says why

    def prepare(self, target: bytes, headers: Headers) -> Decode:
        named = self._parse(target)
        assert named is not None, "matches() comes first"  # noqa: S101
        model, version, path, verb, envelope = named
        content_type, timeout_seconds = _read_headers(headers)
        parameters = _query(target) if self._with_query and b"?" in target else _NO_PARAMETERS
        is_form = may_be_form(content_type)

        def decode(headers: Headers, body: Body, request_id: str) -> Request | asyncio.Task[Request]:
            inputs: list[Part | Tensor] = []
            later = is_form and body.is_large
            if not later:
                inputs = (
                    read_body(content_type, body) if is_form or body.file else [Part("body", content_type, body.data)]
                )
            request = Request(
                model, version, request_id, inputs, headers, path, verb,
                [file.fd for file in body.kept] if body.kept else _NO_FILES,
                envelope, False, (), parameters, 1, timeout_seconds,
            )  # fmt: skip
            if later:
                form = Form(request, content_type, body.data)
                return asyncio.ensure_future(self._read_elsewhere(form, body))
            return request

        return decode

    async def _read_elsewhere(self, form: Form, body: Body) -> Request:
        request, files = await request_by(self._codec, READ, form, body.files)
        body.kept.extend(files)
        return request

    def encode(self, request: Request, outcome: Outcome) -> Response:
        if type(outcome) is Reply:
            if not outcome.headers and outcome.status == 200:
                return Response(200, outcome.content_type.encode("latin-1"), outcome.body)
            headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in outcome.headers]
            content_type = outcome.content_type.encode("latin-1")
            return Response(outcome.status, content_type, outcome.body, headers, outcome.reason.encode("latin-1"))
        assert isinstance(outcome, Failure)  # noqa: S101
        status, body = failure_json(outcome)
        return Response(status, b"application/json", body, retry_headers(outcome))

    def encode_chunk(self, request: Request, piece: Reply) -> Response:
        """As it is; or as server-sent events, when that is what the client accepts."""
        response = self.encode(request, piece)
        if not any(name == b"accept" and _EVENT_STREAM in value for name, value in request.headers):
            return response
        lines = bytes(response.body).splitlines() or [b""]
        event = b"".join(b"data: %b\n" % line for line in lines) + b"\n"
        return Response(response.status, _EVENT_STREAM, event, response.headers, response.reason)


@lru_cache(maxsize=1024)
def model_target(target: bytes) -> Target:
    """/{word}/{model}[/{version}[/{path}]]. Raises InvalidRequest when it names no model."""
    _, word, model, *rest = [*_segments(target), ""]
    if not model:
        raise InvalidRequest(f"the URL names no model; it would be /{word}/{{model}}[/{{version}}]")
    version, *path = rest[:-1] or [""]
    return Target(model, version or None, "/".join(path))


def invoke_target(target: bytes) -> Target | None:
    """/models/{model}/invoke"""
    _, _, model, *rest = [*_segments(target), ""]
    return Target(model) if model and rest[:1] == ["invoke"] else None


class InvocationsDoor(TorchServeDoor):
    """/invocations, with `model_name` in the query or in a form; `only_model` says which is meant when neither does, or
    raises InvalidRequest."""

    def __init__(self, codec: Codec, only_model: Callable[[], str]) -> None:
        super().__init__(codec, _invocations_target, with_query=True)
        self._only_model = only_model

    def prepare(self, target: bytes, headers: Headers) -> Decode:
        decode_unnamed = super().prepare(target, headers)

        def decode(headers: Headers, body: Body, request_id: str) -> Request | asyncio.Task[Request]:
            request = decode_unnamed(headers, body, request_id)
            if isinstance(request, Request):
                return self._named(request)
            return asyncio.ensure_future(self._named_once_read(request))

        return decode

    async def _named_once_read(self, reading: asyncio.Task[Request]) -> Request:
        return self._named(await reading)

    def _named(self, request: Request) -> Request:
        inputs, parameters = request.inputs, request.parameters
        if "model_name" not in parameters:
            for given in [given for given in inputs if given.name == "model_name"]:
                inputs = [other for other in inputs if other is not given]
                parameters = {**parameters, "model_name": _utf8(bytes(given.data), "model_name")}
        model = str(parameters.get("model_name") or self._only_model())
        return msgspec.structs.replace(request, model=model, inputs=inputs, parameters=parameters)


def _invocations_target(target: bytes) -> Target | None:
    return Target("") if len([segment for segment in _segments(target) if segment]) == 1 else None


@lru_cache(maxsize=1024)
def explained_target(target: bytes) -> Target:
    """The same, to be explained."""
    return model_target(target)._replace(verb="explain")


def legacy_target(target: bytes) -> Target | None:
    """/{model}/predict, /{model}/{version}/predict"""
    _, model, *rest = _segments(target)
    if rest[-1:] == [""]:  # a slash at the end
        rest.pop()
    if not model or not rest or rest[-1] != "predict" or len(rest) > 2:
        return None
    return Target(model, rest[0] if len(rest) == 2 else None)


@lru_cache(maxsize=1024)
def workflow_target(target: bytes) -> Target | None:
    """/wfpredict/{workflow}. Raises InvalidRequest when it names none."""
    _, word, workflow, *rest = [*_segments(target), ""]
    if not workflow:
        raise InvalidRequest(f"the URL names no workflow; it would be /{word}/{{workflow}}")
    return Target(workflow) if not any(rest) else None


def doors(codec: Codec, only_model: Callable[[], str]) -> dict[bytes, Door]:
    """The doors by the first segment of the path; `only_model` says which model is meant when only one can be."""
    return {
        b"predictions": TorchServeDoor(codec, model_target),
        b"explanations": TorchServeDoor(codec, explained_target),
        b"models": TorchServeDoor(codec, invoke_target, with_query=True),
        b"invocations": InvocationsDoor(codec, only_model),
    }


def open_inference_door(codec: Codec, parse: Callable[[bytes], tuple[str, str | None, Verb] | None]) -> Door:
    """For models in the envelope of the Open Inference Protocol, whose targets `parse` takes apart."""

    def target(text: bytes) -> Target | None:
        named = parse(text)
        return Target(named[0], named[1], verb=named[2]) if named else None

    return TorchServeDoor(codec, target)


def kserve_door(codec: Codec, parse: Callable[[bytes], tuple[str, str | None, Verb] | None]) -> Door:
    """For KServe's first protocol, which is TensorFlow Serving's row format: {"instances": […]} → {"predictions": […]}.
    `parse` takes its targets apart."""

    @lru_cache(maxsize=1024)
    def target(text: bytes) -> Target | None:
        named = parse(text)
        if named is None:
            return None
        model, version, verb = named
        return Target(model, version, "", verb, "kserve" if verb == "explain" else "json")

    return TorchServeDoor(codec, target)


def other_door(codec: Codec) -> Door:
    """For what begins with a model's name."""
    return TorchServeDoor(codec, legacy_target, with_query=True)


def _read_headers(headers: Headers) -> tuple[str, float]:
    """The body's Content-Type, and the request's timeout in seconds, or 0. Raises InvalidRequest."""
    content_type = ""
    timeout_seconds = 0.0
    for name, value in headers:
        if name == b"content-type":
            if content_type:
                raise InvalidRequest("two headers say the Content-Type of the body; send one")
            content_type = value.decode("latin-1")
        elif name == TIMEOUT_HEADER:
            timeout_seconds = parse_timeout(value)
        elif name == b"content-encoding" and value.lower() not in (b"", b"identity"):
            encoding = shown(value.decode("latin-1"))
            raise InvalidRequest(f"Content-Encoding: {encoding}: bodies are not unpacked here; send it as it is")
    return content_type, timeout_seconds


def _query(target: bytes) -> dict[str, Parameter]:
    """Raises InvalidRequest."""
    fields = parse_form(target.partition(b"?")[2], "the query")
    return {field.name: _utf8(bytes(field.data), field.name) for field in fields}


def _utf8(value: bytes, name: str) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise InvalidRequest(f"{shown(name)}={shown(repr(value))}: not UTF-8") from None


def _segments(target: bytes) -> list[str]:
    path = target.split(b"?", 1)[0]
    try:
        return [unquote_to_bytes(segment).decode() for segment in path.split(b"/")]
    except UnicodeDecodeError:
        raise InvalidRequest("the URL is not UTF-8") from None
