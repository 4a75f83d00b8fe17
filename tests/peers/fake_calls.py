"""A node that answers gRPC calls as a test says, and keeps what it was asked."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

Answer = Callable[[Iterator[bytes], grpc.ServicerContext], Iterable[bytes]]


class FakeCalls(grpc.GenericRpcHandler):
    """`answer` is given the messages of each call, of whatever method."""

    def __init__(self) -> None:
        self.metadata: list[list[tuple[str, str | bytes]]] = []
        self.left = threading.Event()
        """Set when a client has given up its call."""
        self.answer: Answer = lambda messages, _: messages
        self._server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.max_receive_message_length", -1)])
        self._server.add_generic_rpc_handlers((self,))
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def reset(self, answer: Answer) -> None:
        self.metadata.clear()
        self.left.clear()
        self.answer = answer

    def service(self, _: Any) -> Any:
        return grpc.stream_stream_rpc_method_handler(self._answer)

    def _answer(self, messages: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        self.metadata.append(list(context.invocation_metadata()))
        yield from self.answer(messages, context)

    def close(self) -> None:
        self._server.stop(0)
