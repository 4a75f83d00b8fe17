"""Each method of a client is written once, without I/O; a blocking and an awaited client run it in their own way.

Such a method is a generator: it yields an attempt, is given the answer, and returns the result. The types of the
results follow from the class of the client.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable, Coroutine, Generator
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Protocol, TypeAlias, TypeVar, cast, overload

import msgspec

from pdserver.client.calls import Answer, Call, Port

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
P = ParamSpec("P")
B = TypeVar("B", bound="Blocking")
A = TypeVar("A", bound="Awaited")


class Attempt(msgspec.Struct, frozen=True):
    """A call to send, and how long to wait for its answer."""

    port: Port
    call: Call[Any]
    timeout_seconds: float
    delay_seconds: float = 0.0
    """How long to wait before sending it."""


Conversation: TypeAlias = Generator[Attempt, Answer, T]


class Verb(Protocol[P, T_co]):
    """A method that returns its result in a blocking client, and a coroutine of its result in an awaited one."""

    @overload
    def __get__(self, client: Blocking, kind: type) -> Callable[P, T_co]: ...
    @overload
    def __get__(self, client: Awaited, kind: type) -> Callable[P, Coroutine[Any, Any, T_co]]: ...


def verb(converse: Callable[Concatenate[Any, P], Conversation[T]]) -> Verb[P, T]:
    """Decorates a conversation, so that calling it has its client run it."""

    @functools.wraps(converse)
    def method(client: Any, *args: P.args, **options: P.kwargs) -> Any:
        return client._run(functools.partial(converse, client, *args, **options))

    return cast(Verb[P, T], method)


class Blocking:
    """Each verb returns its result."""

    def __enter__(self: B) -> B:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections. Idempotent."""
        raise NotImplementedError

    def _send(self, attempt: Attempt) -> Answer:
        """Raises ClientError when there is no answer."""
        raise NotImplementedError

    def _run(self, begin: Callable[[], Conversation[T]]) -> T:
        conversation = begin()
        try:
            attempt = next(conversation)
            while True:
                time.sleep(attempt.delay_seconds)
                attempt = conversation.send(self._send(attempt))
        except StopIteration as end:
            return cast(T, end.value)


class Awaited:
    """Each verb returns a coroutine of its result."""

    async def __aenter__(self: A) -> A:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections. Idempotent."""
        raise NotImplementedError

    async def _send(self, attempt: Attempt) -> Answer:
        """Raises ClientError when there is no answer."""
        raise NotImplementedError

    async def _run(self, begin: Callable[[], Conversation[T]]) -> T:
        conversation = begin()
        try:
            attempt = next(conversation)
            while True:
                await asyncio.sleep(attempt.delay_seconds)
                attempt = conversation.send(await self._send(attempt))
        except StopIteration as end:
            return cast(T, end.value)
