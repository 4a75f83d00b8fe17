"""A dialect is one value, with everything that a wire protocol adds to the ports on which it is spoken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
from starlette.routing import BaseRoute

from pdserver.dialects.base import Door, ErrorWords
from pdserver.dialects.rpc import Service


class Dialect(msgspec.Struct, frozen=True, kw_only=True):
    """Leave out what the dialect does not have."""

    name: str
    words: ErrorWords
    """For errors on its routes."""
    doors: Mapping[bytes, Door] = {}
    """Predictions over HTTP, by the first segment of the path."""
    other_doors: Sequence[Door] = ()
    """For paths that begin with none of the segments of any dialect of the port. The first one that matches is used."""
    path: str = ""
    """The prefix of all of its routes, such as /v2; unknown paths below it are the dialect's, too. Empty: any path."""
    routes: Sequence[BaseRoute] = ()
    """All else over HTTP. Each route says what access it needs (`pdserver.security.routes.Route`)."""
    services: Sequence[Service] = ()
    """Over gRPC."""
