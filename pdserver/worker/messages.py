"""What crosses the process line, by direction.

Server → nursery   ImportPaddle, Spawn, Signal    Nursery → server   Awake, Spawned, Exited
Server → worker    Load, Batch                    Worker → server    Loaded, NotLoaded, Chunk, Answered
"""

from __future__ import annotations

import msgspec

from pdserver.configuration.model import ModelSpec
from pdserver.errors import Kind
from pdserver.types import Answered, Declared, Interface, Reply, Request


class ImportPaddle(msgspec.Struct, frozen=True, array_like=True, tag="import_paddle"):
    """Have the workers that are forked from now on find Paddle imported."""


class Spawn(msgspec.Struct, frozen=True, array_like=True, tag="spawn"):
    """Fork a worker. Two descriptors come along: its channel and the pipe for its stdout and stderr."""

    worker_id: int
    python: str = ""
    """The interpreter to replace the worker's by, without the nursery's imports. Empty: the worker keeps this one."""
    limits: dict[str, int] = {}
    """As in `WorkerEnvironment`."""


class Signal(msgspec.Struct, frozen=True, array_like=True, tag="signal"):
    """Signal a worker's process group. The nursery does it, since only a parent can be sure whose pid it is."""

    worker_id: int
    signal_number: int


class Awake(msgspec.Struct, frozen=True, array_like=True, tag="awake"):
    """The nursery has finished its first imports, or those of ImportPaddle."""

    warnings: list[str]


class Spawned(msgspec.Struct, frozen=True, array_like=True, tag="spawned"):
    worker_id: int
    pid: int
    """0: the fork failed; `reason` says why."""
    reason: str = ""


class Exited(msgspec.Struct, frozen=True, array_like=True, tag="exited"):
    """`status` is what waitpid said."""

    worker_id: int
    status: int


class Load(msgspec.Struct, frozen=True, array_like=True, tag="load"):
    spec: ModelSpec
    device_id: int | None
    """The GPU's number; None: the CPU."""
    metrics: list[Declared] = []
    """What metrics.yaml declares for handlers."""


class Batch(msgspec.Struct, frozen=True, array_like=True, tag="batch", gc=False):
    id: int
    requests: list[Request]


class Loaded(msgspec.Struct, frozen=True, array_like=True, tag="loaded"):
    seconds: float
    interface: Interface


class NotLoaded(msgspec.Struct, frozen=True, array_like=True, tag="not_loaded"):
    """The model could not be loaded."""

    kind: Kind
    message: str


class Chunk(msgspec.Struct, frozen=True, array_like=True, tag="chunk", gc=False):
    """A piece of a streamed answer; the rest comes in further chunks and in Answered."""

    id: int
    """That of the batch."""
    index: int
    """Of the request in the batch."""
    reply: Reply


ToNursery = ImportPaddle | Spawn | Signal
FromNursery = Awake | Spawned | Exited
ToWorker = Load | Batch
FromWorker = Loaded | NotLoaded | Chunk | Answered
