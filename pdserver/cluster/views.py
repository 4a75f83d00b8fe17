"""How a cluster is, for people and for programs: each copy and each node, why it is so, and since when."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Mapping

import msgspec

from pdserver.cluster import needs, routing
from pdserver.cluster.base import ClusterView, CopyView, DoorView, ModelView, NodeView, Wanted
from pdserver.cluster.fleet import Member
from pdserver.cluster.reconciler import Reconciler
from pdserver.cluster.routing import Facts
from pdserver.cluster.since import Since
from pdserver.types import ModelRef

_WATCH_SECONDS = 0.5


class Views:
    """Of what a reconciler knows; `replacing` tells why versions could not be replaced."""

    def __init__(self, core: Reconciler, version: str, replacing: Mapping[ModelRef, str]) -> None:
        """`version` is that of this pdserver."""
        self._core = core
        self._version = version
        self._replacing = replacing
        self._since = Since()

    def now(self) -> ClusterView:
        core = self._core
        facts = core.facts()
        nodes = {name: self._node(member) for name, member in sorted(core.fleet.members.items())}
        wanted = sorted(core.state.wanted, key=lambda one: one.ref.name)
        models = tuple(self._model(one, facts, nodes) for one in wanted)
        routes = routing.routes(core.state, facts, core.needs)
        doors = tuple(
            DoorView(name, door.status, door.lost, door.problem or door.unshown)
            for name, door in sorted(core.fleet.doors.items())
        )
        return ClusterView(
            core.fleet.revision, self._version, models, tuple(nodes.values()), routes, core.recovering, doors,
            core.fleet.entrance_problem,
        )  # fmt: skip

    async def watch(self) -> None:
        """Note since when all is as it is, until it is cancelled."""
        while True:
            view = self.now()
            states: dict[Hashable, str] = {node.node: _state(node) for node in view.nodes}
            for model in view.models:
                states |= {(copy.node, model.wanted.ref): copy.state for copy in model.copies}
            self._since.note(states)
            await asyncio.sleep(_WATCH_SECONDS)

    def _node(self, member: Member) -> NodeView:
        core = self._core
        node = NodeView(member.id, member.status, member.lost, member.id in core.draining, core.why_closed(member))
        since = self._since.of(node.node, _state(node))
        return msgspec.structs.replace(node, since=since, unable=bool(member.problem))

    def _model(self, wanted: Wanted, facts: Facts, nodes: Mapping[str, NodeView]) -> ModelView:
        core = self._core
        placed = [(node, False) for node in core.state.nodes_of(wanted.ref)]
        leaving = [(extra.node, True) for extra in core.state.extras if extra.wanted.ref == wanted.ref]
        copies = (self._copy(node, leaves, wanted, facts, nodes) for node, leaves in sorted([*placed, *leaving]))
        problem = self._replacing.get(wanted.ref) or core.problems.get(wanted.ref, "")
        asks, asked_by = core.needs.get(wanted.ref, ()), needs.users(core.needs, wanted.ref)
        return ModelView(wanted, tuple(copies), problem, tuple(asks), tuple(asked_by))

    def _copy(self, node: str, leaving: bool, wanted: Wanted, facts: Facts, nodes: Mapping[str, NodeView]) -> CopyView:
        ref = wanted.ref
        copy = facts.copy(node, ref)
        failed = self._core.failed.get(ref, {}).get(node)
        problem = (copy.problem if copy else "") or (failed.why if failed else "")
        ready, memory_bytes = (copy.ready, copy.memory_bytes) if copy else (False, 0)
        member = self._core.fleet.members.get(node)
        fetching = member is not None and wanted.archive.sha256 in member.fetching
        seen = CopyView(node, ready, problem, memory_bytes, leaving)
        state, reason = _state_of(seen, nodes.get(node), wanted, fetching=fetching)
        return msgspec.structs.replace(seen, state=state, reason=reason, since=self._since.of((node, ref), state))


def _state(node: NodeView) -> str:
    return "LOST" if node.lost else "DRAINING" if node.draining else "THERE"


def _state_of(copy: CopyView, node: NodeView | None, wanted: Wanted, *, fetching: bool) -> tuple[str, str]:
    """The state of a copy, and why it is not READY. `fetching`: whether its archive is on the way."""
    if node is None or node.lost:
        return "LOST", "its node does not answer"
    if copy.leaving:
        return "UNLOADING", "it answers what it has taken, and is then ended"
    if copy.ready:
        return "READY", ""
    if copy.problem:
        return "FAILED", copy.problem
    if wanted.workers == 0:
        return "EMPTY", "no workers are wanted"
    return "LOADING", "its archive is on the way to the node" if fetching else "the node loads it"
