"""gRPC servers of this process with one and the same service, in both transports: ours, and grpcio's as the reference.

A request is a line of JSON that says what is to be done, and bytes behind it; an answer is as many zeros as were asked
for.
"""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import msgspec
import uvloop

from pdserver.dialects.rpc import BidiStreaming, Code, Message, RpcCall, RpcError, ServerStreaming, Service, Unary
from pdserver.grpc.port import PortLimits
from pdserver.grpc.server import GrpcServer
from pdserver.security.access import OPEN
from pdserver.system.budget import Budget
from pdserver.system.connections import Connections

NAME = "testbed.Test"
ECHO_INITIAL, ECHO_TRAILING = "x-grpc-test-echo-initial", "x-grpc-test-echo-trailing-bin"
LIMITS = PortLimits(
    max_message_bytes=4 * 1024 * 1024,
    max_connections=100,
    backlog=100,
    handshake_seconds=10,
    max_held_bytes=64 * 1024 * 1024,
    slow_client_seconds=20,
    idle_seconds=600,
    silent_seconds=60,
)


def asked(body: bytes = b"", **what: Any) -> bytes:
    return json.dumps(what).encode() + b"\n" + body


def read(message: bytes | memoryview) -> dict[str, Any]:
    line, _, body = bytes(message).partition(b"\n")
    return {**json.loads(line or b"{}"), "body": body}


# What ours does


async def unary(message: Message, call: RpcCall) -> bytes:
    given = dict(call.metadata)
    if ECHO_INITIAL.encode() in given:
        call.initial.append((ECHO_INITIAL, given[ECHO_INITIAL.encode()].decode()))
    if ECHO_TRAILING.encode() in given:
        call.trailers.append((ECHO_TRAILING, given[ECHO_TRAILING.encode()]))
    what = read(message)
    call.initial += [tuple(pair) for pair in what.get("initial", [])]
    call.trailers += [tuple(pair) for pair in what.get("trailing", [])]
    if "raise" in what:
        raise RuntimeError(what["raise"])
    if "code" in what:
        raise RpcError(Code(what["code"]), what.get("message", ""))
    await asyncio.sleep(what.get("seconds", 0))
    return bytes(what.get("size", 0))


async def stream(message: Message, call: RpcCall) -> AsyncGenerator[bytes, None]:
    for size in read(message)["sizes"]:
        yield await unary(asked(size=size), call)


async def chat(messages: AsyncIterator[Message], call: RpcCall) -> AsyncGenerator[bytes, None]:
    async for message in messages:
        yield await unary(message, call)


async def collect(messages: AsyncIterator[Message], _: RpcCall) -> AsyncGenerator[bytes, None]:
    size = 0
    async for message in messages:
        size += len(read(message)["body"])
    yield asked(received=size)


SERVICE = Service(
    NAME,
    {
        "Empty": Unary(unary, OPEN),
        "Unary": Unary(unary, OPEN),
        "Stream": ServerStreaming(stream, OPEN),
        "Chat": BidiStreaming(chat, OPEN),
        "Collect": BidiStreaming(collect, OPEN),
    },
)


class Ours:
    """A server in a thread."""

    def __init__(self, service: Service, limits: PortLimits, memory: Budget) -> None:
        self.server: GrpcServer
        self.address = ""
        self._begun = threading.Event()
        self._end: Callable[[], object] = lambda: None
        self.thread = threading.Thread(target=lambda: uvloop.run(self._run(service, limits, memory)))

    async def _run(self, service: Service, limits: PortLimits, memory: Budget) -> None:
        loop, end = asyncio.get_running_loop(), asyncio.Event()
        self._end = lambda: loop.call_soon_threadsafe(end.set)
        self.server = GrpcServer(None, memory)
        with socket.create_server(("127.0.0.1", 0)) as sock:
            await self.server.serve([sock], [service], limits, Connections())
            self.address = f"127.0.0.1:{sock.getsockname()[1]}"
            self._begun.set()
            await end.wait()
            await self.server.stop(0)

    def __enter__(self) -> Ours:
        self.thread.start()
        assert self._begun.wait(60)
        return self

    def __exit__(self, *_: object) -> None:
        self._end()
        self.thread.join(60)
        assert not self.thread.is_alive()


def ours(service: Service = SERVICE, memory: Budget | None = None, **changed: Any) -> Ours:
    limits = msgspec.structs.replace(LIMITS, **changed)
    return Ours(service, limits, memory or Budget(512 * 1024 * 1024))


# The same, by grpcio


def _reference_unary(message: bytes, context: Any) -> bytes:
    given = dict(context.invocation_metadata())
    what = read(message)
    if ECHO_INITIAL in given and "told" not in context.__dict__:
        context.told = True
        context.send_initial_metadata([(ECHO_INITIAL, given[ECHO_INITIAL])])
    if ECHO_TRAILING in given:
        context.set_trailing_metadata([(ECHO_TRAILING, given[ECHO_TRAILING])])
    if "code" in what:
        codes = {code.value[0]: code for code in grpc.StatusCode}
        context.abort(codes[what["code"]], what.get("message", ""))
    threading.Event().wait(what.get("seconds", 0))
    return bytes(what.get("size", 0))


def _reference_stream(message: bytes, context: Any) -> Iterator[bytes]:
    return (_reference_unary(asked(size=size), context) for size in read(message)["sizes"])


def _reference_chat(messages: Iterable[bytes], context: Any) -> Iterator[bytes]:
    return (_reference_unary(message, context) for message in messages)


def _reference_collect(messages: Iterable[bytes], _: Any) -> bytes:
    return asked(received=sum(len(read(message)["body"]) for message in messages))


@contextmanager
def reference() -> Iterator[str]:
    """The address of grpcio's server."""
    handlers: dict[str, Any] = {
        "Empty": grpc.unary_unary_rpc_method_handler(_reference_unary),
        "Unary": grpc.unary_unary_rpc_method_handler(_reference_unary),
        "Stream": grpc.unary_stream_rpc_method_handler(_reference_stream),
        "Chat": grpc.stream_stream_rpc_method_handler(_reference_chat),
        "Collect": grpc.stream_unary_rpc_method_handler(_reference_collect),
    }
    server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.max_receive_message_length", 4 * 1024 * 1024)])
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(NAME, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(0).wait(60)
