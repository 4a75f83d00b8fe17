"""brpc's error codes.

Source: https://github.com/apache/brpc/blob/master/src/brpc/errno.proto
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum

from pdserver.dialects.rpc import Code


class Errno(IntEnum):
    """Those that are answered here. brpc's clients ask another server after ELIMIT and ELOGOFF."""

    OK = 0
    ENOSERVICE = 1001
    """Also: there is no such model."""
    ENOMETHOD = 1002
    EREQUEST = 1003
    """The request is wrong."""
    ERPCAUTH = 1004
    ERPCTIMEDOUT = 1008
    EINTERNAL = 2001
    ELOGOFF = 2003
    """The server stops. Clients leave it alone until it is there again."""
    ELIMIT = 2004
    """The server has too much to do, or can't do this at the moment."""


_OF_CODE: Mapping[Code, Errno] = {
    Code.OK: Errno.OK,
    Code.INVALID_ARGUMENT: Errno.EREQUEST,
    Code.ALREADY_EXISTS: Errno.EREQUEST,
    Code.FAILED_PRECONDITION: Errno.EREQUEST,
    Code.OUT_OF_RANGE: Errno.EREQUEST,
    Code.NOT_FOUND: Errno.ENOSERVICE,
    Code.UNIMPLEMENTED: Errno.ENOMETHOD,
    Code.UNAUTHENTICATED: Errno.ERPCAUTH,
    Code.PERMISSION_DENIED: Errno.ERPCAUTH,
    Code.DEADLINE_EXCEEDED: Errno.ERPCTIMEDOUT,
    Code.RESOURCE_EXHAUSTED: Errno.ELIMIT,
    Code.UNAVAILABLE: Errno.ELIMIT,
}


def errno_of(code: Code) -> Errno:
    return _OF_CODE.get(code, Errno.EINTERNAL)
