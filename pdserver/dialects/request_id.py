"""The name of a request, in logs and answers: what the client calls it, or one of our own."""

from __future__ import annotations

import itertools
import re
import secrets

from pdserver.dialects.rpc import Call

_GIVEN = re.compile(rb"[\x21-\x7e]{1,128}")
_PREFIX = secrets.token_hex(10)
_numbers = itertools.count()


def of_call(call: Call, model: str, given: str = "") -> str:
    """Note what a gRPC call is for, and its id, in it: what the message calls it (`given`), else the metadata."""
    call.model = model
    call.request_id = given or request_id(dict(call.metadata).get(b"x-request-id", b""))
    return call.request_id


def request_id(given: bytes = b"") -> str:
    """`given`, if it is printable ASCII of up to 128 characters; else a new one, made without asking the system for
    randomness each time."""
    if given and _GIVEN.fullmatch(given):
        return given.decode()
    return f"{_PREFIX}{next(_numbers):012x}"
