"""A request's id, in logs and answers: the client's own, or one that is made here."""

from __future__ import annotations

import itertools
import re
import secrets

from pdserver.dialects.rpc import RpcCall

_GIVEN = re.compile(rb"[\x21-\x7e]{1,128}")
_PREFIX = secrets.token_hex(10)
_numbers = itertools.count()


def of_call(call: RpcCall, model: str, given: str = "") -> str:
    """The id of a gRPC call: that in the message (`given`), that in the metadata, or a new one. The call notes it, and
    the model."""
    call.model = model
    call.request_id = given or request_id(dict(call.metadata).get(b"x-request-id", b""))
    return call.request_id


def request_id(given: bytes = b"") -> str:
    """`given`, if it is printable ASCII of up to 128 characters; otherwise a new one, without a system call for it."""
    if given and _GIVEN.fullmatch(given):
        return given.decode()
    return f"{_PREFIX}{next(_numbers):012x}"
