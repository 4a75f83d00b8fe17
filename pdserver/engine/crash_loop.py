"""When the server gives up a version for a while because its workers die again and again.

closed ── so many deaths in a window, or nothing but deaths for long ──▶ open ── a worker answers something ──▶ closed

A death counts if the worker died while it loaded or soon after, and was started after the last death that counted. So
workers that die together, because memory ran out or an operator killed them, count as one. Deaths that a single request
is to blame for do not count, unless many requests are in a row, or nothing else happens for long.

While it is open, a worker is started now and then; the first one that answers closes it. So workers that answer before
they die never open it.

Pure: the caller brings the time (seconds, of a monotonic clock).
"""

from __future__ import annotations

from collections import deque

_MOST_DEADLY = 20
"""With so many requests in a row that end workers, the model is to blame, and not the requests."""


class CrashLoop:
    """Told of each death and of the first answer after one."""

    def __init__(self, most_deaths: int, window_seconds: float, longest_seconds: float) -> None:
        self._window_seconds = window_seconds
        self._longest_seconds = longest_seconds
        self._deaths: deque[float] = deque(maxlen=most_deaths)
        """Those that count."""
        self._first = 0.0
        self._deadly = 0
        """So many requests were to blame for deaths since the last answer."""
        self.troubled = False
        """Whether a worker has died since the last answer."""
        self.open = False
        """Given up until something is answered."""

    def __repr__(self) -> str:
        return f"<CrashLoop {'open' if self.open else 'closed'}, deaths {list(self._deaths)}>"

    def died(self, now: float, started: float, ready_seconds: float, explained: int = 0) -> None:
        """A worker died, or could not load the model. A single request is to blame for the last `explained` deaths,
        this one included.

        It was wanted since `started`, and had been ready for `ready_seconds`, 0 if it never was. A worker that was
        ready for longer than the window counts as healthy, though nobody may have asked it anything.
        """
        if ready_seconds > self._window_seconds:
            self.answered()
            return
        if not self.troubled:
            self._first = now
        self.troubled = True
        deaths = self._deaths
        if deaths and started < deaths[-1]:
            return  # it was there at the last one: the same event
        if explained and self._deadly < _MOST_DEADLY:
            self._deadly += 1
            for _ in range(min(explained - 1, len(deaths))):
                deaths.pop()
        else:
            deaths.append(now)
        many = len(deaths) == deaths.maxlen and now - deaths[0] <= self._window_seconds
        if many or now - self._first > self._longest_seconds:
            self.open = True

    def answered(self) -> None:
        """A worker answered."""
        self._deaths.clear()
        self._deadly = 0
        self.troubled = self.open = False
