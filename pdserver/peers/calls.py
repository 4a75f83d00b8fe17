"""Calls over gRPC that another node answers: bytes in, bytes out, whatever the method."""

from __future__ import annotations

import asyncio
import contextlib
import math
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Any

import grpc
import grpc.aio

from pdserver.dialects.request_id import request_id
from pdserver.dialects.rpc import (
    ANSWERED,
    FORWARDED_BY,
    LACKS_MODEL,
    Code,
    Message,
    Metadata,
    PassedCall,
    RpcError,
    is_forwarded,
)
from pdserver.errors import Missing
from pdserver.peers.base import Addresses
from pdserver.peers.heads import CHECKED_HERE
from pdserver.peers.others import Others, told
from pdserver.peers.tls import TlsToNodes
from pdserver.system.budget import Budget

TLS = "grpcs://"
_OPTIONS = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.enable_retries", 0),  # whether a call may be repeated is known here alone
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.keepalive_time_ms", 5_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
]
_CONNECT_SECONDS = 2.0
_GRACE_SECONDS = 60.0
"""For calls to a node that is no more among the others."""
_ID = b"x-request-id"
_TRANSPORTS = frozenset({b"user-agent", FORWARDED_BY, _ID}) | CHECKED_HERE
"""Metadata that each connection has of its own, or that are given anew."""
_OURS = frozenset(each.decode() for each in (LACKS_MODEL, ANSWERED))
_PRINTABLE = re.compile(rb"[\x20-\x7e]*")


class GrpcPeers:
    """Asks the other nodes. `budget`: for the messages that are on their way."""

    def __init__(self, others: Others, tls: TlsToNodes, budget: Budget) -> None:
        self._others = others
        self._budget = budget
        self._channels: dict[str, grpc.aio.Channel] = {}
        """By address."""
        self._closing: set[asyncio.Task[None]] = set()
        self.trust(tls)

    def trust(self, tls: TlsToNodes) -> None:
        """Go by these certificates from the next call on. Those that are on their way go on. Raises OSError."""
        self._credentials = grpc.ssl_channel_credentials(tls.authorities or None, *tls.own)
        for address in [each for each in self._channels if each.startswith(TLS)]:
            self._close(address)

    def takes(self, missing: Missing | None, metadata: Sequence[tuple[bytes, bytes]]) -> bool:
        return missing is not None and self._others.serves(missing) and not is_forwarded(metadata)

    async def answers(self, call: PassedCall) -> AsyncGenerator[bytes, None]:
        """The messages of another node's answer. Raises RpcError."""
        size = len(call.first)
        if not self._budget.take(size, 0):
            said = "calls that go to other nodes take all of receive_buffer_bytes; try again in a moment"
            raise RpcError(Code.RESOURCE_EXHAUSTED, said)
        rpc = call.rpc
        rpc.model = rpc.model or call.missing.model
        rpc.request_id = rpc.request_id or request_id(dict(call.metadata).get(_ID, b""))
        try:
            async with contextlib.aclosing(self._answers(call, _sent(call, self._others.node))) as answers:
                async for answer in answers:
                    yield answer
        finally:
            self._budget.give_back(size)

    async def _answers(self, call: PassedCall, metadata: Metadata) -> AsyncGenerator[bytes, None]:
        others, missing = self._others, call.missing
        may_break = 1 if others.in_sequences(missing) or call.rest is not None else 2
        tried: dict[str, str] = {}
        broken = False
        while may_break and (way := others.next(missing, tried, _has_grpc)) is not None:
            node, addresses = way
            with others.asking(node) as note:
                channel = await self._ready(addresses.grpc, call.deadline)
                if channel is None:
                    note("not_connected")
                    tried[node] = "no connection could be made"
                    continue
                asked = _Asked(channel, call, metadata)
                try:
                    async for answer in asked.answers():
                        yield answer
                    note("answered")
                    return
                except _Broken as error:
                    note("broken")
                    broken = True
                    tried[node] = f"broke off: {error}"
                    may_break = 0 if asked.begun else may_break - 1
                except RpcError as error:
                    tried[node] = "does not serve that either"
                    if asked.lacks_model and call.rest is None and others.next(missing, tried, _has_grpc) is not None:
                        note("lacks_model")
                        continue
                    note("expired" if error.code is Code.DEADLINE_EXCEEDED else "answered")
                    raise
                finally:
                    asked.cancel()
        if broken:
            raise RpcError(Code.UNAVAILABLE, f"another node has not answered: {told(tried)}")
        raise RpcError(Code.UNAVAILABLE, str(others.unreachable(missing, tried)))

    async def _ready(self, address: str, deadline: float) -> grpc.aio.Channel | None:
        """A channel that is connected; None: it can't be."""
        channel = self._channels.get(address)
        if channel is None or channel.get_state() is grpc.ChannelConnectivity.TRANSIENT_FAILURE:
            self._close(address)
            channel = self._channels[address] = self._opened(address)
        seconds = min(_CONNECT_SECONDS, deadline - time.monotonic())
        with contextlib.suppress(asyncio.TimeoutError):
            return channel if await asyncio.wait_for(_connected(channel), max(0.0, seconds)) else None
        return None

    def _opened(self, address: str) -> grpc.aio.Channel:
        if address.startswith(TLS):
            return grpc.aio.secure_channel(address.removeprefix(TLS), self._credentials, _OPTIONS)
        return grpc.aio.insecure_channel(address, _OPTIONS)

    def _close(self, address: str) -> None:
        channel = self._channels.pop(address, None)
        if channel is not None:
            closing = asyncio.ensure_future(channel.close(_GRACE_SECONDS))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    def nodes_changed(self) -> None:
        """Close the channels to nodes that are no more."""
        for address in self._channels.keys() - {each.grpc for each in self._others.table.nodes.values()}:
            self._close(address)

    async def close(self) -> None:
        """Break off what is not answered. Idempotent."""
        channels, self._channels = self._channels, {}
        for closing in list(self._closing):
            closing.cancel()
        await asyncio.gather(
            *self._closing, *(channel.close() for channel in channels.values()), return_exceptions=True
        )


class _Broken(Exception):
    """The call ended without a status of the node's."""


class _Asked:
    """One try to have a node answer a call."""

    begun = False
    """Whether a message of the answer has come."""
    lacks_model = False
    """Whether the node does not serve the model either."""

    def __init__(self, channel: grpc.aio.Channel, call: PassedCall, metadata: Metadata) -> None:
        self._asked = call
        seconds = None if call.deadline == math.inf else max(0.0, call.deadline - time.monotonic())
        first, rest, path = bytes(call.first), call.rest, call.path.decode()
        method: Any = channel.unary_stream(path) if rest is None else channel.stream_stream(path)
        given = first if rest is None else _stream(first, rest)
        self._call = method(given, timeout=seconds, metadata=metadata)

    async def answers(self) -> AsyncGenerator[bytes, None]:
        """Raises _Broken, and RpcError for the node's own status."""
        rpc = self._asked.rpc
        try:
            rpc.initial = _metadata(await self._call.initial_metadata())
            while (answer := await self._call.read()) is not grpc.aio.EOF:
                self.begun = True
                yield answer
            rpc.trailers = _metadata(await self._call.trailing_metadata())
            if await self._call.code() is grpc.StatusCode.OK:
                return
        except grpc.aio.AioRpcError:
            pass  # the same is asked below
        raise await self._failed()

    async def _failed(self) -> Exception:
        code = Code((await self._call.code()).value[0])
        said, trailing = await self._call.details() or "", await self._call.trailing_metadata() or ()
        names = {name for name, _ in trailing}
        self.lacks_model = LACKS_MODEL.decode() in names
        if ANSWERED.decode() not in names and code is not Code.DEADLINE_EXCEEDED:
            return _Broken(said)
        return RpcError(code, said, trailers=_metadata(trailing))

    def cancel(self) -> None:
        """The node need not answer any more. Without effect once it has."""
        self._call.cancel()


async def _stream(first: bytes, rest: AsyncIterator[Message]) -> AsyncGenerator[bytes, None]:
    yield first
    async for message in rest:
        yield bytes(message)


async def _connected(channel: grpc.aio.Channel) -> bool:
    failed = grpc.ChannelConnectivity.TRANSIENT_FAILURE, grpc.ChannelConnectivity.SHUTDOWN
    while (state := channel.get_state(try_to_connect=True)) is not grpc.ChannelConnectivity.READY:
        if state in failed:
            return False
        await channel.wait_for_state_change(state)
    return True


def _sent(call: PassedCall, node: str) -> Metadata:
    """The metadata that the other node is to see. Values that gRPC can't carry are left out."""
    given: Metadata = [
        (name.decode(), value if name.endswith(b"-bin") else value.decode())
        for name, value in call.metadata
        if name not in _TRANSPORTS and (name.endswith(b"-bin") or _PRINTABLE.fullmatch(value))
    ]
    return [*given, (_ID.decode(), call.rpc.request_id), (FORWARDED_BY.decode(), node)]


def _metadata(received: Any) -> Metadata:
    """What of an answer's metadata the client is to see."""
    return [(name, value) for name, value in received or () if name not in _OURS and not name.startswith("grpc-")]


def _has_grpc(addresses: Addresses) -> bool:
    return bool(addresses.grpc)
