"""Continuous batching, as TorchServe has it: a handler is called step by step, with all requests that are not finished.

After each step, it says in each answer's header ts_stream_next whether more is to come. New requests join between the
steps. The handler gets the inputs of a request with its first step alone.
"""

from __future__ import annotations

import msgspec

from pdserver.types import Outcome, Reply, Request

NEXT_HEADER = "ts_stream_next"


def continued(request: Request) -> Request:
    """A request that the handler knows already: its id and headers, without the inputs."""
    return msgspec.structs.replace(request, inputs=[], files=[])


def take_step(outcome: Outcome) -> tuple[Outcome, bool]:
    """A step's answer without the header `ts_stream_next`, and whether the header says that more is to come."""
    if not isinstance(outcome, Reply) or not outcome.headers:
        return outcome, False
    kept = [header for header in outcome.headers if header[0].lower() != NEXT_HEADER]
    goes_on = any(name.lower() == NEXT_HEADER and value == "true" for name, value in outcome.headers)
    return msgspec.structs.replace(outcome, headers=kept), goes_on
