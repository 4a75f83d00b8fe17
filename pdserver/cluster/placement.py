"""Which node serves what. Pure: the same question has the same answer.

Copies stay where they are. Only what has no place gets one, and only what is too many or can't be served loses its.
Copies of one version are always on different nodes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from pdserver.cluster.base import Wanted
from pdserver.cluster.state import same_model
from pdserver.types import ModelRef

_TOLD = 8
"""Of more nodes than this, reasons tell their number only."""
_BUSY = 0.9
"""A node with more load than this is full, as far as packing goes."""

Placed = Mapping[str, tuple[ModelRef, ...]]
"""By the ids of nodes, which versions each serves."""


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """A node, as far as copies can be on it."""

    node: str
    name: str = ""
    """As reasons call it; "": by its id."""
    memory_bytes: int = 0
    """For all copies that it has and gets, together."""
    gpus: int = 0
    """Likewise."""
    load: float = 0.0
    """From 0 to 1."""
    problem: str = ""
    """Why it takes no new copies, as the end of a sentence about it: "has a full disk"."""
    loaded: frozenset[ModelRef] = frozenset()
    """What it has in memory, placed there or not."""
    extras: tuple[Wanted, ...] = ()
    """Copies that it has besides, in the same memory and on the same GPUs. They go when the version is placed here."""
    failed: frozenset[ModelRef] = frozenset()
    """What it could not serve. That goes elsewhere, if it can."""


class Placement(msgspec.Struct, frozen=True):
    placed: Mapping[str, tuple[ModelRef, ...]]
    """By the ids of all nodes."""
    problems: Mapping[ModelRef, str]
    """Why versions have fewer copies than they should."""


def place(places: Sequence[Place], wanted: Sequence[Wanted], before: Placed) -> Placement:
    """Place what is wanted, with as few changes as possible. `before` may name nodes that are gone, and versions that
    nobody wants any more."""
    board = _Board(places)
    missing = []
    for one in wanted:
        kept = board.keep(one, before)
        missing += [(number, one) for number in range(kept, one.copies)]
    short: dict[ModelRef, Wanted] = {}
    # A first copy of everything comes before a second one of anything, and what is hardest to place before the rest.
    for _, one in sorted(missing, key=lambda each: (each[0], -each[1].gpus, -need_bytes(each[1]))):
        if not board.add(one) and not board.leave(one, before):
            short[one.ref] = one
    problems = {ref: board.why_not(one) for ref, one in short.items()}
    order = {one.ref: number for number, one in enumerate(wanted)}
    placed = {node: tuple(sorted(refs, key=order.__getitem__)) for node, refs in board.refs.items()}
    return Placement(placed, problems)


def need_bytes(wanted: Wanted) -> int:
    """What a copy needs. While that is not known, the weights of each worker are the least that it can be."""
    return wanted.memory_bytes or wanted.archive.size * (1 if wanted.workers is None else wanted.workers)


class _Board:
    """Who has what so far, and what is free."""

    def __init__(self, places: Iterable[Place]) -> None:
        self._places = {place.node: place for place in sorted(places, key=lambda place: place.node)}
        self.refs: dict[str, list[ModelRef]] = {node: [] for node in self._places}
        self._bytes = {
            node: place.memory_bytes - sum(map(need_bytes, place.extras)) for node, place in self._places.items()
        }
        self._gpus = {
            node: place.gpus - sum(extra.gpus for extra in place.extras) for node, place in self._places.items()
        }

    def keep(self, wanted: Wanted, before: Placed) -> int:
        """Leave as many copies as are wanted where they are, and tell how many."""
        ref = wanted.ref
        there = [
            place for node, place in self._places.items() if ref in before.get(node, ()) and ref not in place.failed
        ]
        # Those that are too many go: first what is not loaded, then from the busiest nodes.
        there.sort(key=lambda place: (ref not in place.loaded, round(place.load, 1), place.node))
        for place in there[: wanted.copies]:
            self._put(place.node, wanted)
        return min(len(there), wanted.copies)

    def add(self, wanted: Wanted) -> bool:
        """Place one more copy, if any node can take it."""
        able = [place for node, place in self._places.items() if not self._obstacle(node, wanted)]
        if not able:
            return False
        self._put(min(able, key=lambda place: self._rank(place, wanted)).node, wanted)
        return True

    def leave(self, wanted: Wanted, before: Placed) -> bool:
        """Leave a copy where it failed: no other node takes it, and this one may recover."""
        for node, place in self._places.items():
            if wanted.ref in place.failed and wanted.ref in before.get(node, ()) and wanted.ref not in self.refs[node]:
                self._put(node, wanted)
                return True
        return False

    def why_not(self, wanted: Wanted) -> str:
        """Why no node takes another copy."""
        if not self._places:
            return "there is no node"
        number = sum(wanted.ref in refs for refs in self.refs.values())
        of_copies = f" ({number} of {wanted.copies} are placed)" if number else ""
        gpus = f" and {_gpus(wanted.gpus)}" if wanted.gpus else ""
        reasons = [f"{place.name or node} {self._obstacle(node, wanted)}" for node, place in self._places.items()]
        more = [f"{len(reasons) - _TOLD} other nodes can't either"] if len(reasons) > _TOLD else []
        return (
            f"no node can take {'another' if number else 'a'} copy of {wanted.ref}{of_copies}, which needs"
            f" {_size(need_bytes(wanted))} of memory{gpus}: {'; '.join(reasons[:_TOLD] + more)}"
        )

    def _obstacle(self, node: str, wanted: Wanted) -> str:
        """Why the node can't take a copy, as the end of a sentence about it; "": it can."""
        place = self._places[node]
        if wanted.ref in place.failed:
            return "could not serve it"
        if wanted.ref in self.refs[node]:
            return "has a copy"
        for extra in place.extras:
            if extra.ref == wanted.ref and not same_model(extra, wanted):
                return "still has another archive of it"
            if extra.ref == wanted.ref and wanted.ref in place.loaded:
                return ""  # it takes no more than it has
        if place.problem:
            return place.problem
        free_bytes, gpus = self._free(node, wanted)
        if gpus < wanted.gpus:
            return f"has {_gpus(max(0, gpus))} free"
        if free_bytes < need_bytes(wanted):
            return f"has {_size(max(0, free_bytes))} of memory free"
        return ""

    def _free(self, node: str, wanted: Wanted) -> tuple[int, int]:
        """Bytes and GPUs for a copy, which takes the place of an extra one of the same version."""
        same = [extra for extra in self._places[node].extras if extra.ref == wanted.ref]
        return self._bytes[node] + sum(map(need_bytes, same)), self._gpus[node] + sum(extra.gpus for extra in same)

    def _rank(self, place: Place, wanted: Wanted) -> tuple[object, ...]:
        """The lowest one gets the copy."""
        node = place.node
        load, number, room = round(place.load, 1), len(self.refs[node]), self._bytes[node]
        if wanted.spread == "packed":
            return (wanted.ref not in place.loaded, load > _BUSY, number == 0, room, node)
        return (wanted.ref not in place.loaded, number, load, -room, node)

    def _put(self, node: str, wanted: Wanted) -> None:
        self.refs[node].append(wanted.ref)
        free_bytes, gpus = self._free(node, wanted)
        self._bytes[node], self._gpus[node] = free_bytes - need_bytes(wanted), gpus - wanted.gpus


def _gpus(number: int) -> str:
    return {0: "no GPU", 1: "1 GPU"}.get(number, f"{number} GPUs")


def _size(size_bytes: int) -> str:
    """Of memory, for people."""
    for unit, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if size_bytes >= unit:
            return f"{size_bytes / unit:.1f} {name}"
    return f"{size_bytes} B"
