"""What the main process and a front end tell one another.

All that either has to say in one turn of its event loop goes in one frame. Descriptors come along in this order: those
of `others`, then those of the calls or of the answers.
"""

from __future__ import annotations

from typing import Any

import msgspec

from pdserver.engine.catalogue import ServedVersion
from pdserver.errors import Missing
from pdserver.logs.forwarding import Logged
from pdserver.security.routes import Rule
from pdserver.types import Failure, RelayedRequest, Reply

Metadata = list[tuple[str, Any]]
"""Of an answer over gRPC (`dialects.rpc.Metadata`): MessagePack itself tells text from bytes."""

# Front end → main process


class Submitted(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A prediction. `request.files` are as many descriptors, and those of the sender."""

    number: int
    """The front end's own, by which both name the call."""
    request: RelayedRequest
    arrived: float
    """Seconds of `time.monotonic`, which all processes of a machine share."""
    held_bytes: int
    entrypoint: str
    form: str
    """See `engine.queue.Call.form`."""


class HttpHead(msgspec.Struct, frozen=True, array_like=True):
    """A request over HTTP that is no prediction, as its ASGI scope has it."""

    port: str
    method: str
    scheme: str
    http_version: str
    path: str
    raw_path: bytes
    query_string: bytes
    headers: list[tuple[bytes, bytes]]
    client: tuple[str, int] | None
    server: tuple[str, int | None] | None
    token: str
    """The scope of the token that was shown."""
    sent: list[tuple[bytes, bytes]] | None
    """The headers as another node may see them. None: it may see none."""


class RpcHead(msgspec.Struct, frozen=True, array_like=True):
    """A call over gRPC or PRPC that is no prediction."""

    method: str
    """/package.Service/Method"""
    metadata: list[tuple[bytes, bytes]]
    timeout_seconds: float
    client: str
    token: str


class HttpAsked(msgspec.Struct, frozen=True, array_like=True, tag="http"):
    number: int
    head: HttpHead


class RpcAsked(msgspec.Struct, frozen=True, array_like=True, tag="rpc"):
    number: int
    head: RpcHead


class Seen(msgspec.Struct, frozen=True, array_like=True, tag="seen"):
    """What was told by the `News` of this number is in force."""

    revision: int


class RegionGone(msgspec.Struct, frozen=True, array_like=True, tag="region_gone"):
    """The front end has let a region of shared memory go."""

    name: str


class Ready(msgspec.Struct, frozen=True, array_like=True, tag="ready"):
    """The front end accepts clients."""


class Forwarded(msgspec.Struct, frozen=True, array_like=True, tag="forwarded", gc=False):
    """So many requests more were passed on to another server."""

    node: str
    outcome: str
    count: int


# Both directions, of a call that was passed on


class Data(msgspec.Struct, frozen=True, array_like=True, tag="data", gc=False):
    """A piece of a body, or a message."""

    number: int
    data: bytes


class Taken(msgspec.Struct, frozen=True, array_like=True, tag="taken", gc=False):
    """A piece was taken: there is room for another one."""

    number: int


class Last(msgspec.Struct, frozen=True, array_like=True, tag="last", gc=False):
    """The client sends no more."""

    number: int


class Left(msgspec.Struct, frozen=True, array_like=True, tag="left", gc=False):
    """The client does not wait any more; or the answer to it has broken off."""

    number: int


# Main process → front end


class HttpBegan(msgspec.Struct, frozen=True, array_like=True, tag="http_began"):
    number: int
    status: int
    headers: list[tuple[bytes, bytes]]
    model: str
    """For the access log."""


class RpcBegan(msgspec.Struct, frozen=True, array_like=True, tag="rpc_began"):
    number: int
    initial: Metadata


class Ended(msgspec.Struct, frozen=True, array_like=True, tag="ended"):
    """The answer is whole. What follows is of calls over gRPC alone."""

    number: int
    code: int = 0
    message: str = ""
    trailers: Metadata = []
    request_id: str = ""
    model: str = ""
    missing: Missing | None = None
    """The model that is not served here, if that is the error."""


class ModelNews(msgspec.Struct, frozen=True, array_like=True):
    """A model as the catalogue has it."""

    versions: dict[str, ServedVersion]
    default: str


class News(msgspec.Struct, frozen=True, array_like=True, tag="news"):
    """What has changed of the catalogue, and the whole of what seldom changes."""

    revision: int
    models: dict[str, ModelNews | None]
    """None: it is not served any more."""
    starting: bool
    stopping: bool
    missing: dict[str, str]
    leaving: list[ServedVersion]
    known: list[str]
    """See `oip.repository.Repository`."""
    labels: dict[str, dict[str, int]]
    """See `tensorflow.control.Control`."""


class RegionNews(msgspec.Struct, frozen=True, array_like=True, tag="region"):
    """A region of shared memory, whose descriptor comes along."""

    revision: int
    name: str
    key: str
    offset: int
    byte_size: int


class NoRegion(msgspec.Struct, frozen=True, array_like=True, tag="no_region"):
    """A region is to be let go, once nothing more is to be written to it."""

    revision: int
    name: str


class Begin(msgspec.Struct, frozen=True, array_like=True, tag="begin"):
    """The first message: serve these ports. The sockets were inherited."""

    config: bytes
    """See `configuration.passing`."""
    state: str
    """The server's own folder."""
    rules: dict[str, list[Rule]]
    """By the name of the port: what its calls need that are no predictions."""
    page: int
    """The descriptor of the page that all processes share."""
    number: int = 0
    """The front end's own, from 1 on, which is also that of its row in the page."""
    sockets: dict[str, list[int]] = {}
    """Descriptors by the name of the port."""


class Stop(msgspec.Struct, frozen=True, array_like=True, tag="stop"):
    """Accept no more clients, answer what was accepted within this time, and end."""

    grace_seconds: float


class Hurry(msgspec.Struct, frozen=True, array_like=True, tag="hurry"):
    """No time is left."""


FromFrontEnd = Logged | Forwarded | HttpAsked | RpcAsked | Seen | RegionGone | Ready | Data | Taken | Last | Left
FromMain = Begin | News | RegionNews | NoRegion | HttpBegan | RpcBegan | Data | Taken | Left | Ended | Stop | Hurry


class ToMain(msgspec.Struct, frozen=True, array_like=True):
    """A frame of a front end."""

    others: list[FromFrontEnd]
    calls: list[Submitted]
    cancelled: list[int]


Answer = tuple[int, Reply | Failure]
"""The number of a call, and its outcome or a piece of it."""


class ToFrontEnd(msgspec.Struct, frozen=True, array_like=True):
    """A frame of the main process."""

    others: list[FromMain]
    pieces: list[Answer]
    settled: list[Answer]
