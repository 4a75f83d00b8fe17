"""Logs who has changed the server's state."""

from __future__ import annotations

import logging

_log = logging.getLogger("pdserver.management")


def note(client: str, token: str, what: str) -> None:
    """Log a change. `token` is the scope of the client's token, if it needed one."""
    _log.info("%s, by %s%s", what.rstrip("."), client, f" with a token for {token}" if token else "")
