"""What an actor answers, and what it means when Ray raises something."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TypeVar

from ray.exceptions import RayActorError, RayError, RaySystemError, RayTaskError, UnserializableException

from pdserver.cluster.base import NodeLost
from pdserver.cluster.reasons import reason
from pdserver.errors import PdError, Unavailable

_T = TypeVar("_T")


async def answered(who: str, asked: Awaitable[_T]) -> _T:
    """Raises what the actor's method raised on purpose, and NodeLost when the actor did not answer."""
    try:
        return await asked
    except RayError as error:
        raise meaning(who, error) from None


def meaning(who: str, error: RayError) -> PdError:
    """What was raised on purpose, there or when an answer was read; NodeLost when Ray does not reach the actor, and
    else Unavailable, as when the actor can't begin."""
    cause = getattr(error, "cause", None) if isinstance(error, RayTaskError) else error
    if isinstance(cause, RaySystemError):
        cause = cause.client_exc
    if isinstance(cause, PdError):
        return cause
    if isinstance(error, RayActorError) and error.actor_init_failed:
        return Unavailable(f"pdserver does not start there: {reason(str(error))}")
    if isinstance(error, (RayTaskError, UnserializableException)):
        return Unavailable(f"{who}: {reason(str(error))}")
    return NodeLost(f"{who}: Ray does not reach it: {str(error).splitlines()[0]}")
