"""Changes of what is served: each runs to its end, whether its caller stays or not."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from pdserver.errors import PdError, Unavailable
from pdserver.formats.values import shown

_log = logging.getLogger("pdserver.engine")
_T = TypeVar("_T")
_P = ParamSpec("_P")


class Changes:
    """Owns the tasks of changes. Nobody cancels them: each finishes what it has begun, or takes it back."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._interruptible: set[asyncio.Task[Any]] = set()
        self.stopped = False

    def begin(self, work: Coroutine[Any, Any, _T], what: str) -> asyncio.Task[_T]:
        task = asyncio.get_running_loop().create_task(work, name=what)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def carry(self, work: Coroutine[Any, Any, _T], what: str) -> _T:
        """The result of the work. The work goes on to its end when the caller is cancelled."""
        task = self.begin(work, what)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(_tell)
            raise

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """Put it around slow work that may be cancelled without a trace. Raises Unavailable when the server stops."""
        self.check()
        task = asyncio.current_task()
        assert task is not None  # noqa: S101
        self._interruptible.add(task)
        try:
            yield
        except asyncio.CancelledError:
            self.check()
            raise
        finally:
            self._interruptible.discard(task)

    def check(self) -> None:
        """Raises Unavailable when nothing more is to be begun."""
        if self.stopped:
            raise Unavailable("the server is stopping")

    def stop(self) -> None:
        """Begin nothing more that takes long. Idempotent."""
        self.stopped = True
        for task in self._interruptible:
            task.cancel()

    async def finished(self) -> None:
        while self._tasks:
            await asyncio.wait(self._tasks)


class _Changing(Protocol):
    changes: Changes


_S = TypeVar("_S", bound=_Changing)


def carried(
    verb: Callable[Concatenate[_S, _P], Coroutine[Any, Any, _T]],
) -> Callable[Concatenate[_S, _P], Coroutine[Any, Any, _T]]:
    """Decorates a verb that is a change: a caller who leaves can't leave half of it behind."""

    @functools.wraps(verb)
    async def carry(owner: _S, /, *args: _P.args, **options: _P.kwargs) -> _T:
        what = " ".join([verb.__name__, *map(shown, args[:1])])
        return await owner.changes.carry(verb(owner, *args, **options), what)

    return carry


def _tell(task: asyncio.Task[Any]) -> None:
    """Log how it ended: nobody waits for it any more."""
    error = None if task.cancelled() else task.exception()
    if error is None:
        _log.info("%s: done, after its caller had left", task.get_name())
    else:
        trace = None if isinstance(error, PdError) else error
        _log.error("%s: failed after its caller had left: %s", task.get_name(), error, exc_info=trace)
