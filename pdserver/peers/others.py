"""The other nodes: which of them is asked next for what is missing here, and how that went."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

from pdserver.engine.names import Elsewhere
from pdserver.errors import Missing, Unavailable
from pdserver.formats.values import shown
from pdserver.peers.base import Addresses, Peers
from pdserver.peers.table import Table

Outcome = Literal["answered", "lacks_model", "not_connected", "broken", "expired", "given_up"]
"""What came of asking a node. "answered": whatever the answer says. "given_up": the client left."""
_AVOID_SECONDS = 1.0
"""A node that could not be reached is asked only after all others, for so long."""


class Others:
    """`counted` counts (node, outcome)."""

    def __init__(self, peers: Peers, elsewhere: Elsewhere, counted: Counter[tuple[str, str]]) -> None:
        """Fills `elsewhere` with what other nodes have."""
        self._elsewhere = elsewhere
        self._counted = counted
        self._in_flight: Counter[str] = Counter()
        self._avoided: dict[str, float] = {}
        """Node → until when, in seconds of `time.monotonic`."""
        self.replace(peers)
        elsewhere.nodes = lambda missing: self.table.ways(missing).nodes

    def replace(self, peers: Peers) -> None:
        """Go by this from now on. What is on its way stays so."""
        self.table = Table(peers)
        self._elsewhere.defaults = self.table.defaults

    @property
    def node(self) -> str:
        return self.table.node

    def serves(self, missing: Missing) -> bool:
        return bool(self.table.ways(missing).nodes)

    def next(
        self, missing: Missing, tried: Collection[str], reachable: Callable[[Addresses], object]
    ) -> tuple[str, Addresses] | None:
        """A node that was not tried: the one with the fewest requests of ours. None: there is no more."""
        nodes = self.table.nodes
        ways = self.table.ways(missing)
        left = [node for node in ways.nodes if node not in tried and reachable(nodes[node])]
        if not left:
            return None
        now = time.monotonic()

        def rank(node: str) -> tuple[bool, int, float]:
            return self._avoided.get(node, 0.0) > now, self._in_flight[node], random.random()  # noqa: S311

        chosen = left[0] if ways.sequences else min(left, key=rank)
        return chosen, nodes[chosen]

    def in_sequences(self, missing: Missing) -> bool:
        """Whether a request must not be repeated, since it may be one of a sequence."""
        return self.table.ways(missing).sequences

    @contextmanager
    def asking(self, node: str) -> Iterator[Callable[[Outcome], None]]:
        """For as long as a node has a request. Gives what notes the outcome."""
        outcome: Outcome = "given_up"

        def note(what: Outcome) -> None:
            nonlocal outcome
            outcome = what

        self._in_flight[node] += 1
        try:
            yield note
        finally:
            self._in_flight[node] -= 1
            self._counted[node, outcome] += 1
            if outcome == "not_connected":
                self._avoided[node] = time.monotonic() + _AVOID_SECONDS

    def unreachable(self, missing: Missing, tried: Mapping[str, str]) -> Unavailable:
        """The error when no node could be asked."""
        version = f" version {shown(missing.version)}" if missing.version else ""
        why = told(tried) or "none of them can be asked this way"
        return Unavailable(f"{shown(missing.model or missing.contract)}{version} is served by other nodes: {why}")


def told(tried: Mapping[str, str]) -> str:
    """Nodes, and what came of asking them."""
    return "; ".join(f"{node} {reason}" for node, reason in tried.items())
