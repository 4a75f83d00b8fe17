"""Who is asked for what, and what each node has to know for that. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from pdserver.cluster.base import CopyStatus, NodeStatus, Placed, Wanted
from pdserver.cluster.needs import Needs
from pdserver.cluster.state import Extra, State, same_model
from pdserver.peers.base import Route
from pdserver.types import ModelRef

_KEPT = 2
"""How many nodes have each archive at least, so that no single disk is needed for it."""

Copy = tuple[str, ModelRef]
"""A node's id, and a version there."""


class Facts(msgspec.Struct, frozen=True):
    """What is known of the cluster at one moment."""

    nodes: Mapping[str, NodeStatus]
    """Those that answer, by their ids."""
    draining: frozenset[str] = frozenset()
    """Nodes that are to take no requests."""
    held: frozenset[Copy] = frozenset()
    """Copies that are to take none."""
    hidden: frozenset[ModelRef] = frozenset()
    """Versions that nobody is told of yet."""

    def copy(self, node: str, ref: ModelRef) -> CopyStatus | None:
        status = self.nodes.get(node)
        return next((copy for copy in status.copies if copy.ref == ref), None) if status else None

    def is_ready(self, node: str, ref: ModelRef) -> bool:
        copy = self.copy(node, ref)
        return copy is not None and copy.ready

    def takes(self, node: str, ref: ModelRef) -> bool:
        """Whether the copy is ready and may take requests."""
        return node not in self.draining and (node, ref) not in self.held and self.is_ready(node, ref)


def routes(state: State, facts: Facts, needs: Needs) -> tuple[Route, ...]:
    """Also for versions that nobody serves now: they are known, and the default one stays so."""
    return tuple(_route(state, facts, needs, one) for one in state.wanted if one.ref not in facts.hidden)


def _route(state: State, facts: Facts, needs: Needs, one: Wanted) -> Route:
    nodes, placed = _placed_and_taking(state, facts, one), state.nodes_of(one.ref)
    extras = [extra for extra in state.extras if same_model(one, extra.wanted)]
    staying = [extra.node for extra in extras if not _asks_others(state, needs, extra)]
    if len(nodes) < one.copies:
        nodes += [extra for extra in staying if facts.takes(extra, one.ref)]
    if not nodes:  # those that should take none are better than nobody, unless no copy can come before they go
        ready = [*placed, *([extra.node for extra in extras] if placed else staying)]
        nodes = [node for node in ready if facts.is_ready(node, one.ref)]
    known = [facts.copy(node, one.ref) for node in nodes]
    sequences = any(copy.sequences for copy in known if copy)
    contract = next((copy.contract for copy in known if copy and copy.contract), "")
    return Route(one.ref, tuple(sorted(nodes)), one.default, sequences, contract)


def _placed_and_taking(state: State, facts: Facts, one: Wanted) -> list[str]:
    return [node for node in state.nodes_of(one.ref) if facts.takes(node, one.ref)]


def superfluous(state: State, facts: Facts, needs: Needs) -> frozenset[Copy]:
    """Extra copies that are not needed any more: the placed ones serve, or nobody wants the version; and no other copy
    on the node asks them."""
    there = [(node, ref) for node, refs in state.placed.items() for ref in refs]
    there += [(extra.node, extra.wanted.ref) for extra in state.extras]
    asked = {(node, each) for node, ref in there for each in needs.get(ref, ())}
    unneeded = {
        (extra.node, extra.wanted.ref)
        for extra in state.extras
        if not _stands_in(state, facts, extra) or _asks_others(state, needs, extra)
    }
    return frozenset(unneeded - asked)


def _asks_others(state: State, needs: Needs, extra: Extra) -> bool:
    """Whether it asks copies of archives that are not wanted any more. While it is there they don't go, nor can what is
    wanted come."""
    asked = needs.get(extra.wanted.ref, ())
    return any(
        other.node == extra.node and (one := state.find(other.wanted.ref)) and not same_model(one, other.wanted)
        for other in state.extras
        if other.wanted.ref in asked
    )


def _stands_in(state: State, facts: Facts, extra: Extra) -> bool:
    """Whether an extra copy is to serve until all that are placed do. That of a node that does not answer may."""
    ref = extra.wanted.ref
    one = state.find(ref)
    if one is None or not same_model(one, extra.wanted) or one.workers == 0:
        return False
    may_serve = extra.node not in facts.nodes or facts.is_ready(extra.node, ref)
    return may_serve and len(_placed_and_taking(state, facts, one)) < one.copies


def placed_copy(wanted: Wanted, asked: Iterable[ModelRef]) -> Placed:
    """As a node is told of it. `asked` is what it asks there."""
    return Placed(
        ref=wanted.ref, archive=wanted.archive, handler=wanted.handler, settings=wanted.settings,
        workers=wanted.workers, default=wanted.default, needs=tuple(asked),
    )  # fmt: skip


def archives(needed: Mapping[str, frozenset[str]], wanted: frozenset[str], facts: Facts) -> dict[str, frozenset[str]]:
    """The digests of the archives that each node is to have: those that it needs itself, and so many of the `wanted`
    ones that each is kept by two nodes."""
    found = {node: set(needed.get(node, ())) for node in facts.nodes}
    for digest in sorted(wanted):
        keepers = {node for node, has in found.items() if digest in has}
        able = [node for node, status in facts.nodes.items() if node not in keepers and _may_keep(status, digest)]
        # Those that have it come first, then those that have least to keep.
        able.sort(key=lambda node: (digest not in facts.nodes[node].archives, len(found[node]), node))
        for node in able[: max(0, _KEPT - len(keepers))]:
            found[node].add(digest)
    return {node: frozenset(has) for node, has in found.items()}


def _may_keep(status: NodeStatus, digest: str) -> bool:
    return digest in status.archives or not status.problem
