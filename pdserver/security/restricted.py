"""Triton's restricted APIs: a call needs a header with a certain value, which counts as a token for it.

Source: src/restricted_features.h of Triton's server, and the answers of its HTTP and gRPC endpoints.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence

import msgspec

Given = Mapping[str, tuple[str, str]]
"""API → the header and its value."""
_OVER_GRPC = "triton-grpc-protocol-"


class Restriction(msgspec.Struct, frozen=True):
    """The restriction of one API over one transport."""

    header: bytes
    value: bytes
    status: int
    """The HTTP status of a call without the header."""
    message: str

    def is_met(self, headers: Sequence[tuple[bytes, bytes]]) -> bool:
        """Whether the header has the value. It must come once, so that one request can't try many values."""
        given = [value for name, value in headers if name == self.header]
        return len(given) == 1 and hmac.compare_digest(given[0], self.value)


def over_http(given: Given) -> dict[str, Restriction]:
    return {api: _restriction(name, value, 403, "API") for api, (name, value) in given.items()}


def over_grpc(given: Given) -> dict[str, Restriction]:
    return {api: _restriction(_OVER_GRPC + name, value, 503, "protocol") for api, (name, value) in given.items()}


def _restriction(header: str, value: str, status: int, what: str) -> Restriction:
    message = f"This {what} is restricted, expecting header '{header}'"
    return Restriction(header.encode(), value.encode(), status, message)
