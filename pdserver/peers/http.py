"""Requests over HTTP that another node answers."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncGenerator, Callable

import msgspec

from pdserver.dialects.base import Body, Headers
from pdserver.dialects.rpc import LACKS_MODEL, is_forwarded
from pdserver.errors import DeadlineExceeded, Missing, Overloaded, Unavailable
from pdserver.peers.base import Addresses
from pdserver.peers.connection import WITHOUT_BODY, Broken, Head, NotConnected, PeerConnection, Pool
from pdserver.peers.heads import answer_headers, deadline_of, request_head
from pdserver.peers.others import Others, Outcome, told
from pdserver.peers.tls import TlsToNodes
from pdserver.system.budget import Budget

_KEPT_SECONDS = 30.0
"""Less than servers keep idle connections (`idle_timeout`)."""
_KEPT = 64
_EARLY_SECONDS = 0.01
"""Timers may be a little early."""
MOST_IN_FLIGHT = 512
"""Each request has a connection of its own, and with it a descriptor."""


class Asked(msgspec.Struct, frozen=True):
    """A request that is passed on."""

    missing: Missing
    method: bytes
    target: bytes
    headers: Headers
    """As received, with the token."""
    body: Body
    arrived: float
    """Seconds of `time.monotonic`."""
    id: str


class NodeFailed(Unavailable):
    """The node that has the request did not answer it."""

    status = 502


class _Stale(Exception):
    """A kept connection had ended before it was used again."""


class HttpPeers:
    """Asks the other nodes. `budget`: for the bodies that are on their way."""

    def __init__(self, others: Others, tls: TlsToNodes, budget: Budget) -> None:
        self.others = others
        self.pool = Pool(tls, _KEPT_SECONDS, _KEPT)
        self.budget = budget
        self.open: set[PeerAnswer] = set()
        """Those that are not closed."""
        self.closed = False

    def takes(self, missing: Missing | None, headers: Headers) -> bool:
        """Whether another node is to be asked for what is missing here. One that was passed on is not passed on again:
        that could go in circles."""
        return missing is not None and self.others.serves(missing) and not is_forwarded(headers)

    async def ask(self, asked: Asked) -> PeerAnswer:
        """The answer of another node, which the caller closes. Raises PdError if there is none."""
        data = asked.body.read()
        if len(self.open) >= MOST_IN_FLIGHT:
            raise Overloaded(f"{MOST_IN_FLIGHT} requests are with other nodes already; try again in a moment")
        if not self.budget.take(len(data), 0):
            raise Overloaded("bodies that go to other nodes take all of receive_buffer_bytes; try again in a moment")
        answer = PeerAnswer(self, data, deadline_of(asked.headers, asked.arrived))
        try:
            await answer.begin(asked)
        except BaseException:
            answer.close()
            raise
        return answer

    def nodes_changed(self) -> None:
        """Close what was kept for nodes that are no more."""
        self.pool.keep_only({addresses.inference for addresses in self.others.table.nodes.values()})

    def close(self) -> None:
        """Break off what is not answered. Idempotent."""
        self.closed = True
        self.pool.keep_only(set())
        for answer in list(self.open):
            answer.close()


class PeerAnswer:
    """Another node's answer to one request."""

    head: Head
    headers: Headers
    """Those that the client is to see."""
    length: int | None
    """Of the body; None: not known yet."""

    def __init__(self, peers: HttpPeers, data: bytes | memoryview, deadline: float) -> None:
        self._peers = peers
        self._data = data
        """The body of the request, until the answer begins."""
        self._deadline = deadline
        self._url = ""
        self._connection: PeerConnection | None = None
        self._asking = contextlib.ExitStack()
        """Ends when the node has no more to do with the request."""
        self._note: Callable[[Outcome], None] = _noted_by_nobody
        peers.open.add(self)

    async def begin(self, asked: Asked) -> None:
        """Until there is the head of an answer. Raises PdError."""
        try:
            await asyncio.wait_for(self._begin(asked), None if self._deadline == math.inf else max(0.0, self._left()))
        except asyncio.TimeoutError:
            raise DeadlineExceeded("the node that serves the model did not answer in the client's time") from None
        self.headers, self.length = answer_headers(self.head.headers)
        self._let_go()

    def _left(self) -> float:
        """Seconds of the client's time."""
        return self._deadline - time.monotonic()

    async def _begin(self, asked: Asked) -> None:
        others, missing = self._peers.others, asked.missing
        fresh = others.in_sequences(missing)
        may_break = 1 if fresh else 2
        tried: dict[str, str] = {}
        while may_break and (way := others.next(missing, tried, _has_http)) is not None:
            node, addresses = way
            self._asking.close()
            self._note = self._asking.enter_context(others.asking(node))
            try:
                await self._send(asked, addresses.inference, fresh=fresh)
            except _Stale:
                fresh = True
            except NotConnected as error:
                self._note("not_connected")
                tried[node] = str(error)
            except Broken as error:
                self._note("broken")
                if self._peers.closed:
                    raise Unavailable("the server stops, and another node had not answered yet") from None
                tried[node] = f"broke off: {error}"
                may_break -= 1
            else:
                tried[node] = "does not serve that either"
                if not self._lacks_model() or others.next(missing, tried, _has_http) is None:
                    return
                self._note("lacks_model")
                self._drop()
        if any(reason.startswith("broke off") for reason in tried.values()):
            raise NodeFailed(f"another node has not answered: {told(tried)}")
        raise others.unreachable(missing, tried)

    async def _send(self, asked: Asked, url: str, *, fresh: bool) -> None:
        """Raises NotConnected, Broken, _Stale."""
        left = self._left()
        connection = await self._peers.pool.get(url, left, fresh=fresh)
        self._url, self._connection = url, connection
        head = request_head(
            asked.method, asked.target, asked.headers,
            url=url, node=self._peers.others.node, id=asked.id, length=len(self._data), seconds=left,
        )  # fmt: skip
        try:
            self.head = await connection.ask(head, self._data, without_body=asked.method == b"HEAD")
        except Broken:
            self._drop()
            if connection.was_kept:
                raise _Stale from None
            raise
        except asyncio.CancelledError:
            self._note("expired" if self._left() <= _EARLY_SECONDS else "given_up")
            raise

    def _lacks_model(self) -> bool:
        return any(name == LACKS_MODEL for name, _ in self.head.headers)

    @property
    def has_body(self) -> bool:
        return self.head.status not in WITHOUT_BODY

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """The body, as it comes. Raises NodeFailed."""
        assert self._connection is not None, "begin() comes first"  # noqa: S101
        try:
            async for piece in self._connection.pieces():
                yield piece
        except Broken as error:
            self._note("broken")
            raise NodeFailed(f"the node that answers broke off: {error}") from None
        self._note("answered")

    def close(self) -> None:
        """The answer has been read, or nobody wants it. Idempotent."""
        self._drop()
        self._let_go()
        self._asking.close()
        self._peers.open.discard(self)

    def _drop(self) -> None:
        """Be done with the connection: it is kept if it can be used again."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._peers.pool.put(self._url, connection)

    def _let_go(self) -> None:
        """The request's body is not needed any more."""
        self._peers.budget.give_back(len(self._data))
        self._data = b""


def _noted_by_nobody(_: Outcome) -> None: ...


def _has_http(addresses: Addresses) -> bool:
    return bool(addresses.inference)
