"""Which machines of a cluster have an entrance."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import msgspec


class Spot(msgspec.Struct, frozen=True):
    """A machine that may have an entrance."""

    node: str
    """Its id."""
    address: str
    is_head: bool = False


def chosen(spots: Iterable[Spot], having: Collection[str], wanted: int | None) -> tuple[list[str], str]:
    """The ids of the machines that are to have one, and why those are fewer than wanted.

    Those in `having` have one and keep it; then come the head and the others. All entrances of a cluster have the same
    ports, so there is one at each address at most. `wanted` None: one at each.
    """
    ordered = sorted(spots, key=lambda spot: (spot.node not in having, not spot.is_head, spot.node))
    at: dict[str, str] = {}
    for spot in ordered:
        if wanted is None or len(at) < wanted:
            at.setdefault(spot.address, spot.node)
    if wanted is None or len(at) == wanted:
        return list(at.values()), ""
    return list(at.values()), f"{len(at)} of {wanted} are placed: no other machine has an address of its own"
