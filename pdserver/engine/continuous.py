"""Continuous batching, as TorchServe has it: a handler is called step by step, with all requests that are not finished.

After each step it says of each, by the header ts_stream_next, whether there is more to come; new requests join between
the steps. What a handler was given once, it is not given again.
"""

from __future__ import annotations

import msgspec

from pdserver.types import Outcome, Reply, Request

NEXT_HEADER = "ts_stream_next"


def continued(request: Request) -> Request:
    """A request that the handler has already: its id and headers alone."""
    return msgspec.structs.replace(request, inputs=[], files=[])


def take_step(outcome: Outcome) -> tuple[Outcome, bool]:
    """What a step answered without its `ts_stream_next` header, and whether that said that there is more."""
    if not isinstance(outcome, Reply) or not outcome.headers:
        return outcome, False
    kept = [header for header in outcome.headers if header[0].lower() != NEXT_HEADER]
    goes_on = any(name.lower() == NEXT_HEADER and value == "true" for name, value in outcome.headers)
    return msgspec.structs.replace(outcome, headers=kept), goes_on
