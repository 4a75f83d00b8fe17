"""TorchServe's management API over gRPC: org.pytorch.serve.grpc.management.ManagementAPIsService.

Source: TorchServe 0.12's management.proto. A message's fields are the REST API's parameters under the same names.
"""

from __future__ import annotations

from typing import Any

import orjson

from pdserver.dialects.protos import decode, message_class
from pdserver.dialects.rpc import RpcCall, Service, Unary
from pdserver.errors import Forbidden, InvalidRequest
from pdserver.management.verbs import Done, ManagementVerbs
from pdserver.security import changes
from pdserver.security.access import MANAGEMENT

_PACKAGE = "org.pytorch.serve.grpc.management"
NAME = f"{_PACKAGE}.ManagementAPIsService"
_Response = message_class(f"{_PACKAGE}.ManagementResponse")


class Management:
    """The gRPC methods, which call the verbs: of a server or of a cluster."""

    def __init__(self, verbs: ManagementVerbs, *, enable_model_api: bool) -> None:
        self._verbs = verbs
        self._enable_model_api = enable_model_api

    def service(self) -> Service:
        return Service(
            NAME,
            {
                "DescribeModel": Unary(self.describe, MANAGEMENT),
                "ListModels": Unary(self.list, MANAGEMENT),
                "RegisterModel": Unary(self.register, MANAGEMENT),
                "ScaleWorker": Unary(self.scale, MANAGEMENT),
                "SetDefault": Unary(self.set_default, MANAGEMENT),
                "UnregisterModel": Unary(self.unregister, MANAGEMENT),
            },
        )

    async def describe(self, data: bytes | memoryview, _: RpcCall) -> bytes:
        return _json(await self._verbs.describe(*_model(_fields("DescribeModelRequest", data))))

    async def list(self, data: bytes | memoryview, _: RpcCall) -> bytes:
        return _json(self._verbs.page(_fields("ListModelsRequest", data)))

    async def register(self, data: bytes | memoryview, call: RpcCall) -> bytes:
        self._check_enabled()
        given = _fields("RegisterModelRequest", data)
        given.pop("s3_sse_kms", None)
        return _said(call, await self._verbs.register(given, synchronous=False))

    async def scale(self, data: bytes | memoryview, call: RpcCall) -> bytes:
        return _said(call, await self._verbs.scale(*_model(_fields("ScaleWorkerRequest", data))))

    async def set_default(self, data: bytes | memoryview, call: RpcCall) -> bytes:
        name, version, _given = _model(_fields("SetDefaultRequest", data))
        if version is None:
            raise InvalidRequest("Parameter model_version is required.")
        return _said(call, await self._verbs.set_default(name, version))

    async def unregister(self, data: bytes | memoryview, call: RpcCall) -> bytes:
        self._check_enabled()
        name, version, _given = _model(_fields("UnregisterModelRequest", data))
        return _said(call, await self._verbs.unregister(name, version))

    def _check_enabled(self) -> None:
        if not self._enable_model_api:
            raise Forbidden("Model API disabled (enable_model_api)")


def _fields(message: str, data: bytes | memoryview) -> dict[str, str]:
    """The fields that were sent, as text. Raises InvalidRequest."""
    sent = decode(message_class(f"{_PACKAGE}.{message}"), data).ListFields()
    return {field.name: _text(value) for field, value in sent}


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _model(given: dict[str, str]) -> tuple[str, str | None, dict[str, str]]:
    """The model's name, its version, and the other parameters. Raises InvalidRequest."""
    if "model_name" not in given:
        raise InvalidRequest("Parameter model_name is required.")
    return given.pop("model_name"), given.pop("model_version", None), given


def _said(call: RpcCall, done: Done) -> bytes:
    changes.note(call.client, call.token, done.change)
    return _words(done.words)


def _words(text: str) -> bytes:
    return bytes(_Response(msg=text).SerializeToString())


def _json(value: Any) -> bytes:
    return _words(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode())
