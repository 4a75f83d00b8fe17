"""What a worker sends, as frames. There is always a frame, whatever the handler answered.

Handlers' texts may have lone surrogates, their numbers more than 64 bits, and their objects any type.
"""

from __future__ import annotations

import sys

import msgspec

from pdserver.errors import HandlerFailed, Kind
from pdserver.handlers.runtime.answers import described, failure, text
from pdserver.types import Answered, Failure, NodeRun, Outcome
from pdserver.worker import wire
from pdserver.worker.messages import Chunk, NotLoaded


def answers(given: Answered, files: int) -> bytearray:
    """An outcome that can't be sent becomes a Failure of its request alone. Such a measurement is left out."""
    try:
        return wire.encode(given, files)
    except Exception:  # noqa: BLE001 - an object of the handler's may raise anything
        outcomes = [_sendable(outcome) for outcome in given.outcomes]
        measured = [value for value in given.measured if not _problem(value)]
        if len(measured) < len(given.measured):
            print("metrics left out: their names, units or dimensions can't be sent", file=sys.stderr)  # noqa: T201
        nodes = [_named(run) for run in given.nodes]
        return wire.encode(msgspec.structs.replace(given, outcomes=outcomes, measured=measured, nodes=nodes), files)


def chunk(given: Chunk) -> bytearray:
    """Raises HandlerFailed for a piece that can't be sent."""
    try:
        return wire.encode(given)
    except Exception as error:  # noqa: BLE001
        raise HandlerFailed(f"the piece cannot be sent: {text(error)}") from None


def not_loaded(error: BaseException) -> bytearray:
    told = failure(error)
    return wire.encode(NotLoaded(told.kind, told.message))


def _named(run: NodeRun) -> NodeRun:
    """With failures that can be sent."""
    failures = {position: Failure(failed.kind, text(failed.message)) for position, failed in run.failures.items()}
    return msgspec.structs.replace(run, failures=failures)


def _sendable(outcome: Outcome) -> Outcome:
    problem = _problem(outcome)
    if not problem:
        return outcome
    if isinstance(outcome, Failure):
        return Failure(Kind.HANDLER, text(outcome.message))
    return Failure(Kind.HANDLER, f"the handler's answer cannot be sent: {problem}")


def _problem(value: msgspec.Struct) -> str:
    """Why it can't be sent, or "" if it can."""
    try:
        wire.encode(value)
    except Exception as error:  # noqa: BLE001
        return described(error)
    return ""
