"""The controller: it knows what the cluster is to serve, and has the nodes serve it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Protocol

from pdserver.cluster.base import ClusterView, Entrance, Holder, Keeper, Node, Spread, Wanted
from pdserver.cluster.models import Models


class Machines(Protocol):
    """The machines that are there now."""

    async def nodes(self) -> Mapping[str, Node]:
        """By their ids. The methods of one that has just died raise NodeLost. Asked twice a second."""

    async def entrances(self) -> Sequence[Entrance]:
        """Asked twice a second, too. The same entrance is equal to itself."""


class Controller:
    """Has the nodes serve what it was told to have served.

    All changes run one after the other, each to its end, whether its caller stays or not. What a change says is on the
    disks of all nodes before its caller is told. Without a call, it heals: copies of lost nodes are placed anew, and
    nodes that return get what they are to serve.
    """

    def __init__(
        self,
        machines: Machines,
        models: Models,
        disk: Keeper,
        *,
        version: str,
        holder: Holder | None = None,
    ) -> None:
        """`models` opens the archives of the store, and `disk` keeps the snapshot here; `version` is that of this
        pdserver. `holder` is how nodes reach `piece` of this controller; None: as it is."""
        self.management = ""
        """HOST:PORT of the cluster's management API, for the entrances; "": not known."""

    async def run(self) -> None:
        """Recover what is to be served from the newest snapshot, then serve it until `close`."""
        raise NotImplementedError

    async def close(self) -> None:
        """Leave the nodes as they are. Idempotent."""
        raise NotImplementedError

    async def register(
        self,
        url: str,
        *,
        name: str | None = None,
        handler: str | None = None,
        sha256: str | None = None,
        settings: Mapping[str, str] = {},
        workers: int | None = None,
        copies: int = 1,
        spread: Spread = "spread",
        synchronous: bool = False,
        replace: bool = False,
    ) -> Wanted:
        """Have an archive served by so many nodes, by so many workers each (None: as many as its settings say).

        `url` names a file of the model store, or is an allowed URL; its bytes must have the digest `sha256`. `settings`
        are parameters of the management API, as text. `synchronous`: return when all copies serve; if one can't,
        everything is as before. Else: return when it is noted, and `view` tells the rest. `replace`: the same version
        may be registered already; it serves until the new one does, one node after the other.

        Raises InvalidRequest, ModelNotFound, Forbidden, ArchiveUnusable as one server does. Raises Conflict when the
        version is registered already. When synchronous, raises LoadFailed when a node can't load it, Unavailable when
        the nodes have no room for it; the text says which node lacks what.
        """
        raise NotImplementedError

    async def scale(
        self,
        name: str,
        version: str | None = None,
        *,
        workers: int | None = None,
        copies: int | None = None,
        spread: Spread | None = None,
        settings: Mapping[str, str] = {},
        synchronous: bool = False,
    ) -> Wanted:
        """Change what is given; None and what `settings` lacks stay as they are. `version` None: the default one.
        Raises ModelNotFound, VersionNotFound, InvalidRequest, and when synchronous as `register` does."""
        raise NotImplementedError

    async def set_default(self, name: str, version: str) -> None:
        """Return when all nodes and entrances know it; until then, the default before serves. Raises ModelNotFound,
        VersionNotFound."""
        raise NotImplementedError

    async def unregister(self, name: str, version: str | None = None) -> None:
        """Take a version out; `version` None: the default one. Return when it is ended everywhere, after what its
        copies had taken was answered. Raises ModelNotFound, VersionNotFound, and Forbidden for the default version
        while there are others."""
        raise NotImplementedError

    def upgrade(self) -> AsyncIterator[str]:
        """Restart the pdserver of one node after the other, as its installation is now, with nothing lost; yields lines
        that tell how far it is. It goes on when nobody reads them. Raises Conflict while another upgrade runs,
        Unavailable when a node does not come back: then the rest stay as they are."""
        raise NotImplementedError

    def view(self) -> ClusterView:
        """All that is known now."""
        raise NotImplementedError

    async def piece(self, sha256: str, offset: int) -> bytes:
        """As a `Holder`, for the nodes."""
        raise NotImplementedError
