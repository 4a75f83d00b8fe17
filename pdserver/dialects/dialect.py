"""A dialect is one value, with everything that a wire protocol adds to the ports on which it is spoken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
from starlette.routing import BaseRoute

from pdserver.dialects.base import Door, ErrorWords
from pdserver.dialects.rpc import Service


class Dialect(msgspec.Struct, frozen=True, kw_only=True):
    """What is left out, the dialect does without."""

    name: str
    words: ErrorWords
    """For what goes wrong on its routes."""
    doors: Mapping[bytes, Door] = {}
    """By which predictions come in over HTTP, by the first segment of the path."""
    other_door: Door | None = None
    """For paths that begin with none of these; on a port with several dialects, the first one's."""
    path: str = ""
    """Below which all of its routes are, and unknown paths are its own, too: /v2. Empty: anywhere."""
    routes: Sequence[BaseRoute] = ()
    """What else it serves over HTTP. Each says what it needs (`pdserver.security.routes.Route`)."""
    services: Sequence[Service] = ()
    """Over gRPC."""
