"""Every error that the server raises on purpose, and what kind it is.

PdError                      has a `kind`; the text says what was wrong and what would be right
├── InvalidRequest           the caller's input is malformed or does not fit the model
├── ModelNotFound            no such model
├── VersionNotFound          the model exists, this version of it does not
├── Conflict                 the name is taken, or the state forbids it
├── Forbidden                understood and refused
├── Unsupported              a part of a protocol that this server does not have, or has switched off
├── Unavailable              nobody can serve this now: no worker, still loading, failed, stopping
├── Overloaded               the queue is full
├── DeadlineExceeded         the answer did not come in time
├── WorkerDied               the worker ended while it had the request
├── LoadFailed               the model could not be loaded in a worker
├── HandlerFailed            the handler raised, or broke its contract
├── ArchiveUnusable          an archive is missing, corrupt or not acceptable
└── ConfigError              a setting is unknown or has a bad value

A Kind says what happened; each dialect owns one table from Kind to its own status codes.
"""

from __future__ import annotations

from enum import Enum


class Kind(str, Enum):
    """What went wrong, in words that no wire protocol owns."""

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


class PdError(Exception):
    """The root; `str(error)` is meant for the caller's eyes."""

    kind = Kind.HANDLER
    status = 0
    """An HTTP status that the handler asked for; 0: the kind's own."""


class InvalidRequest(PdError):
    kind = Kind.INVALID


class ModelNotFound(PdError):
    kind = Kind.NOT_FOUND


class VersionNotFound(PdError):
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
    kind = Kind.UNAVAILABLE


class Overloaded(PdError):
    kind = Kind.OVERLOADED


class DeadlineExceeded(PdError):
    kind = Kind.DEADLINE


class WorkerDied(PdError):
    """`last_words` is the end of what it wrote to its standard streams; `untouched`: it was not given the request;
    `blameless`: its model had no part in it; `crashed`: it died of a fault of its own code, like SIGSEGV;
    `killed`: somebody killed it, or the system for want of memory, and perhaps others with it."""

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
    """Its kind says whose fault it was: the archive's (INVALID, CONFIG), want of memory, or anything else."""

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
