"""What the REST clients have in common: addresses, tokens, and when to try again."""

from __future__ import annotations

import time

import msgspec

from pdserver.client.calls import Answer


class Port(msgspec.Struct, frozen=True):
    """Where calls go, and what lets them in."""

    url: str
    token: str

    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.token}"} if self.token else {}


class Settings:
    """Raises ValueError for an address that is none."""

    def __init__(self, url: str, management: str, token: str, management_token: str) -> None:
        for name, given in (("url", url), ("management", management)):
            if not given.startswith(("http://", "https://")) and (given or name == "url"):
                raise ValueError(f"{name}={given!r}: expected http://HOST:PORT or https://HOST:PORT")
        self.inference = Port(url.rstrip("/"), token)
        self._management = Port(management.rstrip("/"), management_token or token)

    def management(self) -> Port:
        """Raises ValueError when it is not known where that is."""
        if not self._management.url:
            raise ValueError('to manage models, say where: management="http://HOST:8081"')
        return self._management

    def tls(self) -> bool:
        """Whether one of the ports speaks it."""
        return any(port.url.startswith("https:") for port in (self.inference, self._management))


class Tries:
    """The tries of one call."""

    def __init__(self, timeout_seconds: float, retries: int) -> None:
        self._deadline = time.monotonic() + timeout_seconds
        self._retries = retries

    def left_seconds(self) -> float:
        return max(0.001, self._deadline - time.monotonic())

    def wait_seconds(self, answer: Answer) -> float | None:
        """How long to wait before the next try; None: this answer is the last."""
        retry_after = answer.headers.get("retry-after", "")
        if answer.status != 503 or not retry_after.isdigit() or not self._retries:
            return None
        self._retries -= 1
        seconds = float(retry_after)
        return seconds if time.monotonic() + seconds < self._deadline else None
