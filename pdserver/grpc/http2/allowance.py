"""A limit for what a client does without asking for an answer."""

from __future__ import annotations

from time import monotonic

from pdserver.grpc.http2.frames import ConnectionFault, ErrorCode


class Allowance:
    """A budget that useful work and time refill."""

    __slots__ = ("_at_once", "_earned", "_per_second", "_since", "_what", "left")

    def __init__(self, what: str, at_once: float, per_second: float) -> None:
        """`what` names in the GOAWAY what there was too much of."""
        self._what = what
        self._at_once = self.left = at_once
        """`left` is what may be spent. Its spender calls `refill` when it gets negative, so that spending is cheap."""
        self._per_second = per_second
        self._earned = 0.0
        self._since = monotonic()

    def refill(self, earned: float) -> None:
        """`earned`: what useful work has earned since the connection began. Raises ConnectionFault if all is spent."""
        now = monotonic()
        refill = earned - self._earned + (now - self._since) * self._per_second
        self._earned, self._since = earned, now
        self.left = min(self.left + refill, self._at_once)
        if self.left < 0:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, f"too many {self._what}")
