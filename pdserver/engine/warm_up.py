"""Requests that a worker answers before it serves, since a model's first answers take longer."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from pdserver.backends.base import Unsendable, Worker
from pdserver.errors import LoadFailed, PdError
from pdserver.types import Answered, Failure, Request


async def answered(worker: Worker, requests: Iterator[Request]) -> None:
    """Have a worker that has loaded its model answer the requests, one by one. Each comes from `requests` in a thread,
    and is called by its id in errors.

    Raises LoadFailed for a request that can't be made, sent or answered, and WorkerDied.
    """
    answers: asyncio.Queue[Answered | None] = asyncio.Queue()
    worker.serve(answers.put_nowait, lambda index, piece: None)
    worker.on_death(lambda: answers.put_nowait(None))
    while (request := await _next(requests)) is not None:
        if answers.empty():
            try:
                worker.send([request])
            except Unsendable as error:
                raise LoadFailed(f"{request.id}: {error}") from None
        answer = await answers.get()
        if answer is None:
            raise await worker.death()
        [outcome] = answer.outcomes
        if isinstance(outcome, Failure):
            raise LoadFailed(f"{request.id}: {outcome.message}")


async def _next(requests: Iterator[Request]) -> Request | None:
    try:
        return await asyncio.to_thread(next, requests, None)
    except PdError as error:
        raise LoadFailed(str(error), error.kind) from None
