"""Two event loops in two threads: what one awaits of the other."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")


class PostedLoop(asyncio.SelectorEventLoop):
    """Woken once for all that another thread has for it by then: each time is a system call."""

    def __init__(self) -> None:
        super().__init__()
        self._posted: deque[Callable[[], object]] = deque()
        self._woken = False

    def post(self, function: Callable[[], object]) -> None:
        """Have it called soon; from another thread, always the same one."""
        self._posted.append(function)
        if not self._woken:
            self._woken = True
            self.call_soon_threadsafe(self._take_posted)

    def _take_posted(self) -> None:
        self._woken = False  # before it looks: what is posted from now on may be seen, and wakes it once more
        for _ in range(len(self._posted)):
            self.call_soon(self._posted.popleft())


async def across(there: asyncio.AbstractEventLoop, answering: Coroutine[Any, Any, T]) -> T:
    """Await it in another thread's loop. Cancelling this cancels it.

    asyncio.run_coroutine_threadsafe and wrap_future do the same, with a concurrent Future's locks between.
    """
    here = asyncio.get_running_loop()
    answer: asyncio.Future[T] = here.create_future()
    tasks: list[asyncio.Task[T]] = []

    def begin() -> None:
        task = there.create_task(answering)
        task.add_done_callback(lambda task: _post(here, partial(_copy, task, answer)))
        tasks.append(task)

    _post(there, begin)
    try:
        return await answer
    except asyncio.CancelledError:
        _post(there, lambda: tasks[0].cancel())
        raise


def _post(there: asyncio.AbstractEventLoop, function: Callable[[], object]) -> None:
    if isinstance(there, PostedLoop):
        there.post(function)
    else:
        there.call_soon_threadsafe(function)


def _copy(task: asyncio.Task[T], answer: asyncio.Future[T]) -> None:
    error = None if task.cancelled() else task.exception()
    if answer.done():
        return
    if task.cancelled():
        answer.cancel()
    elif error is not None:
        answer.set_exception(error)
    else:
        answer.set_result(task.result())
