"""What the controller, the nodes and the entrances of a cluster tell one another.

A *node* is a machine with one pdserver. The *controller* knows what the cluster is to serve, and decides which node
serves what. It tells each node its whole `Target`, and the node makes it so; told the same again, it does nothing. An
*entrance* is a load balancer in front of the nodes. All that is here can cross machines.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol

from pdserver.cluster.messages import Message
from pdserver.errors import Unavailable
from pdserver.peers.base import Addresses, Peers, Route
from pdserver.types import ModelRef

Spread = Literal["spread", "packed"]
"""How copies are placed: on the machines with the most room, or on those that have the least and yet enough. Copies of
one version are always on different machines."""


class NodeLost(Unavailable):
    """The machine is gone, or can't be reached now."""


class Archive(Message, frozen=True):
    """An archive, by its bytes."""

    sha256: str
    """In lower case."""
    file: str
    """The name of the file."""
    size: int
    """Bytes."""


class Need(Message, frozen=True):
    """A model of the store that a pipeline asks."""

    name: str
    version: str | None = None
    """None: the default version, whichever it is."""


class Wanted(Message, frozen=True, kw_only=True):
    """One version of a model that the cluster is to serve."""

    ref: ModelRef
    url: str
    """Where the archive came from, as the client said it."""
    archive: Archive
    handler: str | None = None
    settings: Mapping[str, str] = {}
    """As parameters of the management API: batch_size, max_batch_delay, response_timeout, startup_timeout."""
    workers: int | None = None
    """Of each copy; None: as many as the archive's settings say."""
    copies: int = 1
    """How many nodes serve it at least. So does each node that serves a pipeline that asks it."""
    spread: Spread = "spread"
    memory_bytes: int = 0
    """That a copy needs, with all its workers; 0: not known yet."""
    gpus: int = 0
    """That a copy needs."""
    needs: tuple[Need, ...] = ()
    """Of a pipeline: the models that it asks, which each node that has a copy of it serves, too."""
    default: bool = False
    """Whether it is its model's default version."""


class Placed(Message, frozen=True, kw_only=True):
    """One copy: a version that a node is to serve."""

    ref: ModelRef
    archive: Archive
    handler: str | None = None
    settings: Mapping[str, str] = {}
    workers: int | None = None
    default: bool = False
    """Whether it is its model's default version in the cluster. If the node has not the default, it has none."""
    needs: tuple[ModelRef, ...] = ()
    """What it asks: it is loaded when these are, and they are ended when it is gone."""


class Target(Message, frozen=True):
    """All that one node is to serve."""

    revision: int
    """Grows with each change of what the cluster serves."""
    copies: tuple[Placed, ...]
    peers: Peers
    archives: frozenset[str] = frozenset()
    """The digests of the archives that the node keeps, for others too. It may remove the rest."""


class CopyStatus(Message, frozen=True):
    """What a node says of a version that it serves, or was told to serve."""

    ref: ModelRef
    ready: bool
    problem: str = ""
    """Why it does not serve."""
    memory_bytes: int = 0
    """Of its workers; 0: not known."""
    sequences: bool = False
    """As in `peers.base.Route`."""
    workers: int | None = None
    """How many of its workers serve; None: not known."""
    contract: str = ""
    """As in `peers.base.Route`."""
    sha256: str = ""
    """The digest of the archive that it is loaded from; "": not known."""


class NodeStatus(Message, frozen=True, kw_only=True):
    """A node, as it is at one moment."""

    node: str
    host: str
    addresses: Addresses
    version: str
    """Of its pdserver."""
    revision: int
    """Of the last target that it was told, and that its server has been told since it started; 0: none."""
    copies: tuple[CopyStatus, ...] = ()
    memory_bytes: int = 0
    """Of the machine, as far as the node may use it."""
    free_bytes: int = 0
    """Memory that is left."""
    gpus: int = 0
    load: float = 0.0
    """How much of the processors is in use, from 0 to 1."""
    archives: tuple[str, ...] = ()
    """The digests of the archives that it has."""
    problem: str = ""
    """What keeps the node from serving more, such as a full disk."""


class Holder(Protocol):
    """Who has archives: the controller that read one from the store, or a node."""

    async def piece(self, sha256: str, offset: int) -> bytes:
        """Some bytes of the archive from `offset`, at most PIECE_BYTES; empty at its end. Raises NotFound."""


PIECE_BYTES = 4 * 1024 * 1024


class Keeper(Protocol):
    """Who keeps the controller's snapshot on its disk."""

    async def keep(self, revision: int, snapshot: bytes) -> None:
        """Keep it in place of one with an older revision. Raises Unavailable when that can't be written, and has the
        one before still then."""

    async def kept(self) -> tuple[int, bytes]:
        """The newest snapshot that it keeps, with its revision; (0, b"") without one."""


class Node(Keeper, Protocol):
    """A machine with one pdserver, as the controller sees it. All methods raise NodeLost when it is gone."""

    async def status(self) -> NodeStatus: ...

    async def fetch(self, archive: Archive, holder: Holder) -> None:
        """Have the archive, from `holder` unless it is there already; its bytes are checked. Raises PdError, such as
        Unavailable when the disk is full, and leaves nothing half written then."""

    async def apply(self, target: Target) -> NodeStatus:
        """Serve what `target` says and nothing else, from now on and after each restart of the server.

        Returns soon: once `target.peers` is shown to the server, the defaults are set, and all that is to be loaded or
        ended is begun. `status` tells how it goes on: a copy that is loading is neither ready nor has a problem, one
        that can't be served has a problem, and one that is ended is in it until it is gone. The node fetches nothing
        by itself: a copy whose archive it lacks has a problem. A copy with another archive or handler than before is
        loaded anew; others stay untouched. A target with an older revision than the last one is left alone."""

    async def piece(self, sha256: str, offset: int) -> bytes:
        """As a `Holder`."""

    async def restart(self) -> None:
        """End the pdserver after it has answered what it took, and start the one that is installed now. Until the next
        `apply`, it serves nothing."""


class EntranceStatus(Message, frozen=True, kw_only=True):
    """An entrance, as it is at one moment."""

    host: str
    """Its machine's address."""
    addresses: Mapping[str, str] = {}
    """By the names of its ports: URLs, and HOST:PORT of gRPC. Empty as long as it has not opened them."""
    life: str
    """Another one after it has begun anew: then it knows nothing of what it was shown."""
    problem: str = ""
    """Why it takes no requests."""
    starting: bool = False
    """Whether it has not tried yet to open its ports."""


class Entrance(Protocol):
    """A load balancer. All methods raise NodeLost when its machine is gone."""

    async def status(self) -> EntranceStatus: ...

    async def show(self, view: EntranceView) -> None:
        """Send requests where `view` says from now on. Nothing is lost meanwhile."""


class EntranceView(Message, frozen=True):
    """What a load balancer needs to know."""

    nodes: Mapping[str, Addresses]
    """Those that take requests."""
    draining: frozenset[str]
    """The ids of nodes that take no new requests, and answer those that they have."""
    routes: tuple[Route, ...]
    management: str
    """The URL of the cluster's management API; "": not known."""
    grpc_management: str = ""
    """The same over gRPC: HOST:PORT, or `grpcs://HOST:PORT` with TLS; "": not known, or not wanted."""


class CopyView(Message, frozen=True):
    """A copy of a version on a node."""

    node: str
    ready: bool
    """Whether requests are sent to it."""
    problem: str = ""
    """Why it does not serve."""
    memory_bytes: int = 0
    """0: not known."""
    leaving: bool = False
    """It answers what it has taken, and is then ended."""
    state: str = ""
    """READY, LOADING, FAILED, EMPTY (no workers are wanted), UNLOADING, or LOST with its node."""
    reason: str = ""
    """Why it is not READY."""
    since: float = 0.0
    """When it came into this state, in seconds since 1970, as far as this controller has seen it."""


class ModelView(Message, frozen=True):
    """A version that the cluster is to serve, and how far it does."""

    wanted: Wanted
    copies: tuple[CopyView, ...]
    """In the order of their nodes' ids."""
    problem: str = ""
    """Why there are fewer copies than wanted: no node has room for them, say."""
    asks: tuple[ModelRef, ...] = ()
    """Of a pipeline: the versions that it asks, in any number of steps."""
    asked_by: tuple[ModelRef, ...] = ()
    """The pipelines that ask it, likewise."""


class NodeView(Message, frozen=True):
    """A node that is there, or was and is still to return."""

    node: str
    status: NodeStatus | None
    """As it was when it was last heard; None: not yet."""
    lost: bool = False
    """It has not answered for some seconds."""
    draining: bool = False
    """It takes no new requests: its pdserver is about to be upgraded."""
    problem: str = ""
    """Why it gets no new copies, if it does not."""
    since: float = 0.0
    """Since when it is lost, draining or neither, as in `CopyView`."""
    unable: bool = False
    """Its pdserver can't start, which `problem` explains."""


class DoorView(Message, frozen=True):
    """An entrance that is there."""

    node: str
    """The id of its machine."""
    status: EntranceStatus | None
    """As it was when it was last heard; None: not yet."""
    lost: bool = False
    """It has not answered for some seconds."""
    problem: str = ""
    """Why it can't answer, or can't be told who serves what."""


class ClusterView(Message, frozen=True):
    """All that the controller knows, as it is at one moment."""

    revision: int
    version: str
    """Of the controller's pdserver."""
    models: tuple[ModelView, ...]
    """In the order of their names and of their registration."""
    nodes: tuple[NodeView, ...]
    """In the order of their ids."""
    routes: tuple[Route, ...]
    recovering: bool = False
    """It has just begun, and has not heard from all nodes yet."""
    entrances: tuple[DoorView, ...] = ()
    """In the order of their machines' ids."""
    entrance_problem: str = ""
    """Why there are fewer entrances than wanted."""
