"""Which node serves what. Pure: the same question has the same answer.

Copies stay where they are. Only what has no place gets one, and only what is too many or can't be served loses its.
Copies of one version are always on different nodes. A pipeline brings the models that it asks: each node that has a
copy of it has copies of these, which count as theirs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from pdserver.cluster.base import Wanted
from pdserver.cluster.needs import Needs
from pdserver.cluster.state import same_model
from pdserver.formats.values import listed
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


def place(
    places: Sequence[Place], wanted: Sequence[Wanted], before: Placed, needs: Mapping[ModelRef, Sequence[ModelRef]] = {}
) -> Placement:
    """Place what is wanted, with as few changes as possible. `before` may name nodes that are gone, and versions that
    nobody wants any more. `needs`: as `needs.Needs`."""
    board = _Board(places, wanted, needs)
    # What asks others comes before them, since it brings them.
    users_first = sorted(wanted, key=lambda one: -len(needs.get(one.ref, ())))
    for one in users_first:
        board.keep(one, before)
    missing = [(number, one) for one in users_first for number in range(board.count(one.ref), one.copies)]
    short: dict[ModelRef, Wanted] = {}
    # A first copy of everything comes before a second one of anything, and what is hardest to place before the rest.
    for number, one in sorted(
        missing, key=lambda each: (each[0], -len(needs.get(each[1].ref, ())), *_size_of(each[1]))
    ):
        if board.count(one.ref) <= number and not board.add(one) and not board.leave(one, before):
            short[one.ref] = one
    problems = {ref: board.why_not(one) for ref, one in short.items()} | board.lacking
    order = {one.ref: number for number, one in enumerate(wanted)}
    placed = {node: tuple(sorted(refs, key=order.__getitem__)) for node, refs in board.refs.items()}
    return Placement(placed, problems)


def _size_of(wanted: Wanted) -> tuple[int, int]:
    """The largest come first by this."""
    return (-wanted.gpus, -need_bytes(wanted))


def need_bytes(wanted: Wanted) -> int:
    """What a copy needs. While that is not known, the weights of each worker are the least that it can be."""
    return wanted.memory_bytes or wanted.archive.size * (1 if wanted.workers is None else wanted.workers)


class _Board:
    """Who has what so far, and what is free."""

    def __init__(self, places: Iterable[Place], wanted: Iterable[Wanted], needs: Needs) -> None:
        self._places = {place.node: place for place in sorted(places, key=lambda place: place.node)}
        self._wanted = {one.ref: one for one in wanted}
        self._needs = needs
        self.refs: dict[str, list[ModelRef]] = {node: [] for node in self._places}
        self.lacking: dict[ModelRef, str] = {}
        """Why a node does not get versions that a copy there asks."""
        self._bytes = {
            node: place.memory_bytes - sum(map(need_bytes, place.extras)) for node, place in self._places.items()
        }
        self._gpus = {
            node: place.gpus - sum(extra.gpus for extra in place.extras) for node, place in self._places.items()
        }

    def count(self, ref: ModelRef) -> int:
        """How many nodes have it."""
        return sum(ref in refs for refs in self.refs.values())

    def keep(self, wanted: Wanted, before: Placed) -> None:
        """Leave as many copies as are wanted where they are."""
        ref = wanted.ref
        there = [
            place for node, place in self._places.items()
            if ref in before.get(node, ()) and ref not in self.refs[node] and not self._failed(node, wanted)
        ]  # fmt: skip
        # Those that are too many go: first what is not loaded, then from the busiest nodes.
        there.sort(key=lambda place: (ref not in place.loaded, round(place.load, 1), place.node))
        for place in there[: max(0, wanted.copies - self.count(ref))]:
            self._put(place.node, wanted)
            for asked in self._lacked(place.node, wanted):
                self._bring(place, asked, wanted, before)

    def _bring(self, place: Place, asked: Wanted, user: Wanted, before: Placed) -> None:
        """Have the node serve what a copy asks that stays there, if it can."""
        obstacle = "" if asked.ref in before.get(place.node, ()) else self._obstacle(place.node, asked)
        if obstacle:
            name = place.name or place.node
            self.lacking[asked.ref] = (
                f"{user.ref} asks {asked.ref}, and its node {name} can't serve that: it {obstacle}"
            )
        else:
            self._put(place.node, asked)

    def add(self, wanted: Wanted) -> bool:
        """Place one more copy, if any node can take it."""
        able = [place for node, place in self._places.items() if not self._obstacle(node, wanted)]
        if not able:
            return False
        self._put_all(min(able, key=lambda place: self._rank(place, wanted)).node, wanted)
        return True

    def leave(self, wanted: Wanted, before: Placed) -> bool:
        """Leave a copy where it failed: no other node takes it, and this one may recover."""
        for node in self._places:
            if self._failed(node, wanted) and wanted.ref in before.get(node, ()) and wanted.ref not in self.refs[node]:
                self._put_all(node, wanted)
                return True
        return False

    def why_not(self, wanted: Wanted) -> str:
        """Why no node takes another copy."""
        if not self._places:
            return "there is no node"
        number = self.count(wanted.ref)
        of_copies = f" ({number} of {wanted.copies} are placed)" if number else ""
        gpus = f" and {_gpus(wanted.gpus)}" if wanted.gpus else ""
        asked = self._needs.get(wanted.ref, ())
        besides = f", besides what it asks, {listed(map(str, asked))}" if asked else ""
        reasons = [f"{place.name or node} {self._obstacle(node, wanted)}" for node, place in self._places.items()]
        more = [f"{len(reasons) - _TOLD} other nodes can't either"] if len(reasons) > _TOLD else []
        return (
            f"no node can take {'another' if number else 'a'} copy of {wanted.ref}{of_copies}, which needs"
            f" {_size(need_bytes(wanted))} of memory{gpus}{besides}: {'; '.join(reasons[:_TOLD] + more)}"
        )

    def _lacked(self, node: str, wanted: Wanted) -> list[Wanted]:
        """What it asks and the node does not have."""
        asked = (self._wanted.get(ref) for ref in self._needs.get(wanted.ref, ()))
        return [one for one in asked if one is not None and one.ref not in self.refs[node]]

    def _failed(self, node: str, wanted: Wanted) -> ModelRef | None:
        """What the node could not serve, of the version and what it asks."""
        refs = (wanted.ref, *self._needs.get(wanted.ref, ()))
        return next((ref for ref in refs if ref in self._places[node].failed), None)

    def _obstacle(self, node: str, wanted: Wanted) -> str:
        """Why the node can't take a copy, and what it asks, as the end of a sentence about it; "": it can."""
        place = self._places[node]
        if (failed := self._failed(node, wanted)) is not None:
            return f"could not serve {'it' if failed == wanted.ref else failed}"
        if wanted.ref in self.refs[node]:
            return "has a copy"
        new = [wanted, *self._lacked(node, wanted)]
        extras = {extra.ref: extra for extra in place.extras}
        for one in new:
            if one.ref in extras and not same_model(extras[one.ref], one):
                return f"still has another archive of {'it' if one is wanted else one.ref}"
        # What is loaded takes no more than it has.
        new = [one for one in new if not (one.ref in extras and one.ref in place.loaded)]
        return self._why_no_more(place, new) if new else ""

    def _why_no_more(self, place: Place, new: Sequence[Wanted]) -> str:
        """Why a node can't load all of these, likewise."""
        if place.problem:
            return place.problem
        extras = {extra.ref: extra for extra in place.extras}
        taken_over = [extras[one.ref] for one in new if one.ref in extras]
        gpus = self._gpus[place.node] + sum(extra.gpus for extra in taken_over)
        free_bytes = self._bytes[place.node] + sum(map(need_bytes, taken_over))
        if gpus < sum(one.gpus for one in new):
            return f"has {_gpus(max(0, gpus))} free"
        if free_bytes < sum(map(need_bytes, new)):
            return f"has {_size(max(0, free_bytes))} of memory free"
        return ""

    def _rank(self, place: Place, wanted: Wanted) -> tuple[object, ...]:
        """The lowest one gets the copy."""
        node = place.node
        load, number, room = round(place.load, 1), len(self.refs[node]), self._bytes[node]
        new = (wanted.ref not in place.loaded, sum(map(need_bytes, self._lacked(node, wanted))))
        if wanted.spread == "packed":
            return (*new, load > _BUSY, number == 0, room, node)
        return (*new, number, load, -room, node)

    def _put_all(self, node: str, wanted: Wanted) -> None:
        """With what it asks."""
        for one in (wanted, *self._lacked(node, wanted)):
            self._put(node, one)

    def _put(self, node: str, wanted: Wanted) -> None:
        """It takes the place of an extra copy of the same version."""
        same = [extra for extra in self._places[node].extras if extra.ref == wanted.ref]
        self.refs[node].append(wanted.ref)
        self._bytes[node] += sum(map(need_bytes, same)) - need_bytes(wanted)
        self._gpus[node] += sum(extra.gpus for extra in same) - wanted.gpus


def _gpus(number: int) -> str:
    return {0: "no GPU", 1: "1 GPU"}.get(number, f"{number} GPUs")


def _size(size_bytes: int) -> str:
    """Of memory, for people."""
    for unit, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if size_bytes >= unit:
            return f"{size_bytes / unit:.1f} {name}"
    return f"{size_bytes} B"
