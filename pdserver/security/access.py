"""What a call needs: a token of which scope, and whether pages of other sites may make it.

Each route and each RPC says so where it is declared, as one of the constants here. Whatever nobody has declared, a
plugin's route or a path without one, needs its port's own scope and is closed to pages: what nobody thought of is never
open.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from pdserver.configuration.tokens import Scope


class Need(msgspec.Struct, frozen=True):
    """Of one route or RPC."""

    scopes: frozenset[Scope]
    """Of which a token must have one; empty: nobody is asked."""
    guarded: bool = False
    """Closed to pages of other sites: it changes something, or tells what is for operators alone."""
    api: str = ""
    """What Triton calls such calls, where it can restrict them."""

    def of(self, api: str) -> Need:
        """The same, of calls that Triton calls so."""
        return msgspec.structs.replace(self, api=api)


OPEN = Need(frozenset())
ANY = Need(frozenset(Scope))
INFERENCE = Need(frozenset({Scope.INFERENCE, Scope.ADMIN}))
MANAGEMENT = Need(frozenset({Scope.MANAGEMENT, Scope.ADMIN}), guarded=True)
"""For whatever changes something, on whichever port it is."""
PREDICTION = INFERENCE.of("inference")
"""For predictions, in whatever dialect."""
ADMIN = Need(frozenset({Scope.ADMIN}), guarded=True)

PORTS: Mapping[str, Need] = {
    "inference": INFERENCE,
    "oip": INFERENCE,
    "management": MANAGEMENT,
    "metrics": ANY,
    "grpc_inference": INFERENCE,
    "oip_grpc": INFERENCE,
    "grpc_management": MANAGEMENT,
}
"""A port's own."""


def undeclared(port: str) -> Need:
    """Of what nobody has declared."""
    return Need(PORTS[port].scopes, guarded=True)
