"""Who has changed what the server does, in its log."""

from __future__ import annotations

import logging

_log = logging.getLogger("pdserver.management")


def note(client: str, token: str, what: str) -> None:
    """`token`: the scope of the one that the client has shown, if it needed one."""
    _log.info("%s, by %s%s", what.rstrip("."), client, f" with a token for {token}" if token else "")
