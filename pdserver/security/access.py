"""What a call needs: the scope of its token, and whether pages of other sites may make it.

Each route and each RPC declares this with one of the constants here. A call without a declaration, such as a plugin's
route or an unknown path, needs its port's own scope and is closed to pages. So nothing is open by oversight.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from pdserver.configuration.tokens import Scope


class Need(msgspec.Struct, frozen=True):
    """What one route or RPC needs."""

    scopes: frozenset[Scope]
    """The token must have one of these. Empty: no token is needed."""
    guarded: bool = False
    """Closed to pages of other sites, because the call changes something or is for operators only."""
    api: str = ""
    """Triton's name for the API that the call belongs to, if Triton can restrict it."""

    def of(self, api: str) -> Need:
        """The same, for calls of this API of Triton's."""
        return msgspec.structs.replace(self, api=api)


OPEN = Need(frozenset())
ANY = Need(frozenset(Scope))
INFERENCE = Need(frozenset({Scope.INFERENCE, Scope.ADMIN}))
MANAGEMENT = Need(frozenset({Scope.MANAGEMENT, Scope.ADMIN}), guarded=True)
"""For calls that change something, on every port."""
PREDICTION = INFERENCE.of("inference")
"""For predictions, in every dialect."""
ADMIN = Need(frozenset({Scope.ADMIN}), guarded=True)

PORTS: Mapping[str, Need] = {
    "inference": INFERENCE,
    "oip": INFERENCE,
    "paddle_serving": INFERENCE,
    "tensorflow": INFERENCE,
    "management": MANAGEMENT,
    "metrics": ANY,
    "grpc_inference": INFERENCE,
    "oip_grpc": INFERENCE,
    "tensorflow_grpc": INFERENCE,
    "grpc_management": MANAGEMENT,
}
"""The scope of each port."""


def undeclared(port: str) -> Need:
    """What a call without a declaration needs."""
    return Need(PORTS[port].scopes, guarded=True)
