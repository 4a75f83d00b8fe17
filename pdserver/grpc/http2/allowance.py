"""A limit for what a client does without asking for an answer."""

from __future__ import annotations

from time import monotonic

from pdserver.grpc.http2.frames import ConnectionFault, ErrorCode


class Allowance:
    """A budget that useful work and time refill."""

    __slots__ = ("_at_once", "_earned", "_left", "_per_second", "_since", "_what")

    def __init__(self, what: str, at_once: float, per_second: float) -> None:
        """`what` names in the GOAWAY what there was too much of."""
        self._what = what
        self._at_once = self._left = at_once
        self._per_second = per_second
        self._earned = 0.0
        self._since = monotonic()

    def spend(self, cost: float, earned: float) -> None:
        """Spend `cost`. `earned` is the refill by useful work since the connection began. Raises ConnectionFault.

        The budget is refilled only when it is used up, so that spending is cheap.
        """
        self._left -= cost
        if self._left < 0:
            now = monotonic()
            refill = earned - self._earned + (now - self._since) * self._per_second
            self._earned, self._since = earned, now
            self._left = min(self._left + refill, self._at_once)
            if self._left < 0:
                raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, f"too many {self._what}")
