"""A closed loop of clients that each send one page after another and check each answer: it must be that page's own."""

from __future__ import annotations

import http.client
import itertools
import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from urllib.parse import urlsplit

from bench.closed import Closed
from bench.peers.base import WrongAnswer

_TIMEOUT_SECONDS = 120.0


@dataclass(frozen=True)
class PageTarget:
    urls: Sequence[str]
    """Of one server, or of several processes, which have as many clients each."""
    bodies: Sequence[tuple[bytes, Mapping[str, str]]]
    """Of each page, with its headers."""
    is_right: Callable[[int, bytes], bool]
    """Whether this is the answer to the page of that number."""


class Client:
    """Keeps its connection open."""

    def __init__(self, target: PageTarget, url: str) -> None:
        parts = urlsplit(url)
        self._target, self._path = target, parts.path
        self.connection = http.client.HTTPConnection(parts.netloc, timeout=_TIMEOUT_SECONDS)

    def ask(self, number: int) -> None:
        """Raises OSError without an answer, WrongAnswer for another page's."""
        number %= len(self._target.bodies)
        answer = self._answer(*self._target.bodies[number])
        if not self._target.is_right(number, answer):
            raise WrongAnswer(f"{self._path}: page {number}: {answer[:300]!r}")

    def _answer(self, body: bytes, headers: Mapping[str, str]) -> bytes:
        try:
            self.connection.request("POST", self._path, body, dict(headers))
            response = self.connection.getresponse()
            answer = response.read()
        except http.client.HTTPException as error:
            raise OSError(f"no answer: {error!r}") from None
        if response.status != 200:
            raise OSError(f"status {response.status}: {answer[:300]!r}")
        return answer


def closed_page_loop(target: PageTarget, clients: int, seconds: float, warm_up_seconds: float = 0.0) -> Closed:
    """What is answered in so many seconds, once the clients have been asking for a while. Raises WrongAnswer."""
    began = time.monotonic() + warm_up_seconds
    ended = began + seconds
    answers, failures = _asked(target, clients, lambda number: time.monotonic() < ended)
    latencies = [latency for at, latency in answers if began <= at < ended]
    percentiles = statistics.quantiles(latencies, n=100) if len(latencies) > 1 else [0.0] * 99
    p50, p99 = percentiles[49] * 1e3, percentiles[98] * 1e3
    return Closed(len(latencies) / seconds, p50, p99, len(latencies), len(failures))


def ask_pages(target: PageTarget, clients: int, count: int) -> None:
    """So many pages. Raises WrongAnswer, and OSError when one is not answered."""
    _, failures = _asked(target, clients, lambda number: number < count)
    if failures:
        raise failures[0]


def _asked(
    target: PageTarget, clients: int, goes_on: Callable[[int], bool]
) -> tuple[list[tuple[float, float]], list[OSError]]:
    """When each page was answered, and how long that took; and what failed."""
    numbers, taking = itertools.count(), threading.Lock()
    answers: list[tuple[float, float]] = []
    failures: list[OSError] = []

    def run(client: Client) -> None:
        while True:
            with taking:
                number = next(numbers)
            if not goes_on(number):
                break
            began = time.monotonic()
            try:
                client.ask(number)
                answers.append((now := time.monotonic(), now - began))
            except OSError as error:
                failures.append(error)
                client.connection.close()
        client.connection.close()

    with ThreadPoolExecutor(clients) as pool:
        asking = [Client(target, target.urls[number % len(target.urls)]) for number in range(clients)]
        for each in [pool.submit(run, client) for client in asking]:
            each.result()
    return answers, failures
