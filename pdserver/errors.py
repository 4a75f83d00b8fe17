"""All errors that the server raises on purpose, and their kinds.

PdError                      has a `kind`; the text says what was wrong and what is expected
├── InvalidRequest           the caller's input is malformed or does not fit the model
├── NotServed
│   ├── ModelNotFound        no such model
│   └── VersionNotFound      the model exists, this version of it does not
├── Conflict                 the name is taken, or the state forbids it
├── Forbidden                understood and refused
├── Unsupported              a part of a protocol that the server does not support, or has switched off
├── Unavailable              no worker can serve this now: none there, still loading, failed, stopping
├── Overloaded               the queue is full
├── DeadlineExceeded         the answer did not come in time
├── WorkerDied               the worker ended while it had the request
├── LoadFailed               the model could not be loaded in a worker
├── HandlerFailed            the handler raised, or broke its contract
├── ArchiveUnusable          an archive is missing, corrupt or not acceptable
└── ConfigError              a setting is unknown or has a bad value

A Kind says what happened. Each dialect has one table from Kind to its own status codes.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple


class Kind(str, Enum):
    """What went wrong, independent of any wire protocol."""

    INVALID = "invalid"
    NOT_FOUND = "not_found"
    VERSION_NOT_FOUND = "version_not_found"
    CONFLICT = "conflict"
    FORBIDDEN = "forbidden"
    UNSUPPORTED = "unsupported"
    TOO_LARGE = "too_large"
    UNAVAILABLE = "unavailable"
    OVERLOADED = "overloaded"
    DEADLINE = "deadline"
    WORKER_DIED = "worker_died"
    LOAD_FAILED = "load_failed"
    HANDLER = "handler"
    OUT_OF_MEMORY = "out_of_memory"
    CONFIG = "config"


class Missing(NamedTuple):
    """A model that a request asks for, and that this server does not serve. Another one may."""

    model: str
    """Empty: any that has the contract."""
    version: str | None = None
    """None: its default version."""
    contract: str = ""


class PdError(Exception):
    """The root of all errors. The caller sees `str(error)`."""

    kind = Kind.HANDLER
    status = 0
    """An HTTP status that the handler asked for, or 0 for the kind's own."""
    missing: Missing | None = None
    """What is not served here, if that is the error."""


class InvalidRequest(PdError):
    kind = Kind.INVALID


class NotServed(PdError):
    """No such model, or no such version. `missing` is left out where no request asks for the model."""

    def __init__(self, message: str, missing: Missing | None = None) -> None:
        super().__init__(message)
        self.missing = missing


class ModelNotFound(NotServed):
    kind = Kind.NOT_FOUND


class VersionNotFound(NotServed):
    kind = Kind.VERSION_NOT_FOUND


class Conflict(PdError):
    kind = Kind.CONFLICT


class Forbidden(PdError):
    kind = Kind.FORBIDDEN


class Unsupported(PdError):
    kind = Kind.UNSUPPORTED


class TooLarge(PdError):
    kind = Kind.TOO_LARGE


class Unavailable(PdError):
    """`missing` is given if another server may serve the model meanwhile."""

    kind = Kind.UNAVAILABLE

    def __init__(self, message: str, missing: Missing | None = None) -> None:
        super().__init__(message)
        self.missing = missing


class Overloaded(PdError):
    kind = Kind.OVERLOADED


class DeadlineExceeded(PdError):
    kind = Kind.DEADLINE


class WorkerDied(PdError):
    """`last_words` is the end of what the worker wrote to its standard streams. `untouched`: it had not received the
    request. `blameless`: its model was not the cause. `crashed`: its own code crashed, as with SIGSEGV. `killed`:
    somebody killed it, or the system ran out of memory; others may have been killed with it."""

    kind = Kind.WORKER_DIED

    def __init__(
        self,
        message: str,
        last_words: str = "",
        *,
        untouched: bool = False,
        blameless: bool = False,
        crashed: bool = False,
        killed: bool = False,
    ) -> None:
        super().__init__(message)
        self.last_words = last_words
        self.untouched = untouched
        self.blameless = blameless
        self.crashed = crashed
        self.killed = killed


class LoadFailed(PdError):
    """Its kind says what caused it: the archive (INVALID, CONFIG), too little memory, or anything else."""

    def __init__(self, message: str, kind: Kind = Kind.LOAD_FAILED) -> None:
        super().__init__(message)
        self.kind = kind


class HandlerFailed(PdError):
    def __init__(self, message: str, kind: Kind = Kind.HANDLER, status: int = 0) -> None:
        super().__init__(message)
        self.kind, self.status = kind, status


class ArchiveUnusable(PdError):
    kind = Kind.INVALID


class ConfigError(PdError):
    kind = Kind.CONFIG
