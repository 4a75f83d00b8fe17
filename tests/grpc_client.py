"""A TorchServe user's gRPC client: stubs as protoc makes them of the .proto files that the server ships."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import grpc
import pytest
from google.protobuf.empty_pb2 import Empty

from tests.running import RunningServer

PROTOS = Path(__file__).parent.parent / "pdserver" / "dialects" / "protos"
FILES = ("inference.proto", "management.proto", "google/rpc/status.proto")


def _import_stubs() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        outputs = [f"--python_out={folder}", f"--grpc_python_out={folder}"]
        command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTOS}", *outputs, *FILES]
        subprocess.run(command, check=True)
        sys.path.insert(0, folder)
        try:
            names = ("inference_pb2", "inference_pb2_grpc", "management_pb2", "management_pb2_grpc")
            return {name: importlib.import_module(name) for name in names}
        finally:
            sys.path.remove(folder)


_stubs = _import_stubs()
inference_pb2, management_pb2 = _stubs["inference_pb2"], _stubs["management_pb2"]


def prediction(model: str, version: str = "", **inputs: bytes) -> Any:
    """A PredictionsRequest."""
    return inference_pb2.PredictionsRequest(model_name=model, model_version=version, input=inputs)


def chaos(op: str = "echo", **fields: object) -> Any:
    """What asks the zoo's `chaos` for something."""
    return prediction("chaos", body=json.dumps({"op": op, **fields}).encode())


class Manager:
    """The stub of the management API on a channel to HOST:PORT; with the certificate of an authority, over TLS. With a
    token, each call shows it."""

    def __init__(self, address: str, token: str = "", authority: bytes = b"") -> None:
        options = [("grpc.use_local_subchannel_pool", 1)]
        self.channel = (
            grpc.secure_channel(address, grpc.ssl_channel_credentials(authority), options)
            if authority
            else grpc.insecure_channel(address, options)
        )
        self.stub = _stubs["management_pb2_grpc"].ManagementAPIsServiceStub(self.channel)
        self._metadata = [("authorization", f"Bearer {token}")] if token else []

    def __call__(self, method: str, **fields: object) -> str:
        """The answer's text; `method` is RegisterModel, …"""
        request = getattr(management_pb2, f"{method}Request")(**fields)
        answer: str = getattr(self.stub, method)(request, timeout=60, metadata=self._metadata).msg
        return answer

    def __enter__(self) -> Manager:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self.channel.close()


class Client:
    """The stubs on channels to a server: `inference`, `management`. `manage` is a `Manager`."""

    def __init__(self, server: RunningServer) -> None:
        # A connection of its own, not that of another client in this process.
        options = [("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
        self.inference_channel = grpc.insecure_channel(server.grpc_inference, options)
        self.manage = Manager(server.grpc_management)
        self.inference = _stubs["inference_pb2_grpc"].InferenceAPIsServiceStub(self.inference_channel)
        self.management = self.manage.stub

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.inference_channel.close()
        self.manage.close()

    def ping(self) -> Any:
        return json.loads(self.inference.Ping(Empty(), timeout=60).health)

    def predict(self, request: Any, **how: Any) -> bytes:
        how.setdefault("timeout", 30)
        answer: bytes = self.inference.Predictions(request, **how).prediction
        return answer

    def ask(self, op: str = "echo", **fields: object) -> Any:
        """The JSON that `chaos` answers."""
        return json.loads(self.predict(chaos(op, **fields)))


def refusal(call: Callable[[], Any]) -> tuple[grpc.StatusCode, str]:
    """How a call fails: code, words."""
    with pytest.raises(grpc.RpcError) as raised:
        call()
    error: Any = raised.value
    return error.code(), error.details()


def access_log(server: RunningServer) -> str:
    return "".join(path.read_text() for path in (server.folder / "logs").glob("access*"))
