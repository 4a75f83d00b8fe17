"""What the REST clients have in common: addresses, the token, and when to try again."""

from __future__ import annotations

import time

import msgspec

from pdserver.client.calls import Answer


class Settings(msgspec.Struct, frozen=True):
    """Raises ValueError for an address that is none."""

    url: str
    management: str
    token: str
    timeout_seconds: float
    retries: int

    def __post_init__(self) -> None:
        for name, url in (("url", self.url), ("management", self.management)):
            if not url.startswith(("http://", "https://")) and (url or name == "url"):
                raise ValueError(f"{name}={url!r}: expected http://HOST:PORT or https://HOST:PORT")

    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.token}"} if self.token else {}

    def management_url(self) -> str:
        """Raises ValueError."""
        if not self.management:
            raise ValueError('to manage models, say where: management="http://HOST:8081"')
        return self.management.rstrip("/")

    def inference_url(self) -> str:
        return self.url.rstrip("/")

    def tries(self, timeout_seconds: float | None) -> Tries:
        return Tries(self.timeout_seconds if timeout_seconds is None else timeout_seconds, self.retries)


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
