"""What all connections of the inference port share."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from pdserver.dialects.base import Door
from pdserver.engine.queue import Call
from pdserver.http.answer_heads import AnswerHeads
from pdserver.http.connection import HttpPort
from pdserver.http.known_heads import KnownHeads
from pdserver.http.other_protocols import OtherProtocols


class Front(HttpPort, kw_only=True):
    """Besides what those of every HTTP port share."""

    doors: Mapping[bytes, Door]
    """First segment of the path → door."""
    other_doors: tuple[Door, ...]
    """For all other segments: the first one that matches has the request."""
    submit: Callable[[Call], None]
    heads: KnownHeads
    others: OtherProtocols
    """What else is spoken here."""
    answer_heads: AnswerHeads = msgspec.field(default_factory=AnswerHeads)
