"""A cell of a cluster: entrances that send each request to a node, and nodes that answer them first in, first out.

An entrance knows only the requests that it sent itself. A node has one queue for all of its workers. The way between
them takes no time, and nothing dies: what is compared is where requests wait.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import simpy

Times = Callable[[random.Random], float]
"""A service time in seconds, by chance."""


def exponential(mean_seconds: float) -> Times:
    return lambda chance: chance.expovariate(1 / mean_seconds)


def mixed(mean_seconds: float) -> Times:
    """One request of twenty takes ten times as long as each of the others."""
    short = mean_seconds / (0.95 + 0.05 * 10)
    return lambda chance: short * (10 if chance.random() < 0.05 else 1)


def spread(mean_seconds: float, deviation: float) -> Times:
    """Log-normal; `deviation` is the standard deviation as a part of the mean."""
    sigma = math.sqrt(math.log(1 + deviation**2))
    mu = math.log(mean_seconds) - sigma**2 / 2
    return lambda chance: chance.lognormvariate(mu, sigma)


class Job:
    __slots__ = ("arrived", "entrance", "node", "seconds")

    def __init__(self, arrived: float, seconds: float, entrance: int) -> None:
        self.arrived = arrived
        self.seconds = seconds
        """Of service."""
        self.entrance = entrance
        self.node: Node | None = None


class Node:
    """A machine. One that leaves the cell still answers what it has."""

    __slots__ = ("busy", "number", "queue", "workers")

    def __init__(self, number: int, workers: int) -> None:
        self.number = number
        self.workers = workers
        self.busy = 0
        self.queue: deque[Job] = deque()


class Policy(Protocol):
    """Where an entrance sends requests. `sent` and `done` are told of its own only."""

    def choose(self, nodes: Sequence[Node]) -> Node: ...

    def sent(self, node: Node) -> None: ...

    def done(self, node: Node) -> None: ...


class Random:
    """Any node."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance

    def choose(self, nodes: Sequence[Node]) -> Node:
        return self._chance.choice(nodes)

    def sent(self, node: Node) -> None:
        pass

    def done(self, node: Node) -> None:
        pass


class RoundRobin(Random):
    """One after the other."""

    _turn = -1

    def choose(self, nodes: Sequence[Node]) -> Node:
        self._turn += 1
        return nodes[self._turn % len(nodes)]


class _Counting:
    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._counts: dict[Node, int] = {}

    def sent(self, node: Node) -> None:
        self._counts[node] = self._counts.get(node, 0) + 1

    def done(self, node: Node) -> None:
        self._counts[node] -= 1


class TwoChoices(_Counting):
    """The one of two that has fewer requests of this entrance."""

    def choose(self, nodes: Sequence[Node]) -> Node:
        first, second = self._chance.choice(nodes), self._chance.choice(nodes)
        return first if self._counts.get(first, 0) <= self._counts.get(second, 0) else second


class LeastConnections(_Counting):
    """The one that has the fewest requests of this entrance; of several, by chance."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__(chance)
        self._heap: list[tuple[int, float, int, Node]] = []
        """With entries that are out of date, which are dropped when they come up."""
        self._known: Sequence[Node] = ()
        self._members: set[Node] = set()

    def choose(self, nodes: Sequence[Node]) -> Node:
        if self._known is not nodes:
            self._known, self._members, self._heap = nodes, set(nodes), []
            for node in nodes:
                self._push(node)
        while True:
            count, _, _, node = self._heap[0]
            if count == self._counts.get(node, 0):
                return node
            heapq.heappop(self._heap)

    def _push(self, node: Node) -> None:
        if node in self._members:
            heapq.heappush(self._heap, (self._counts.get(node, 0), self._chance.random(), node.number, node))

    def sent(self, node: Node) -> None:
        super().sent(node)
        self._push(node)

    def done(self, node: Node) -> None:
        super().done(node)
        self._push(node)


POLICIES: dict[str, Callable[[random.Random], Policy]] = {
    "random": Random,
    "round robin": RoundRobin,
    "power of two": TwoChoices,
    "least connections": LeastConnections,
}
ONE_QUEUE = "one queue for all"
"""The best that any policy can come to: no worker is idle while a request waits."""


@dataclass
class Answers:
    arrived: int = 0
    answered: int = 0
    refused: int = 0
    """Because the queue was full."""
    latencies: list[float] = field(default_factory=list)
    """Seconds, of the requests that came after the warm-up."""
    waits: list[float] = field(default_factory=list)
    """Seconds that the same spent in queues."""
    in_flight_seconds: float = 0.0
    """Requests in flight, summed over the time since the warm-up."""
    seconds: float = 0.0
    """Since the warm-up."""

    @property
    def mean_wait(self) -> float:
        return sum(self.waits) / len(self.waits)

    @property
    def mean_latency(self) -> float:
        return sum(self.latencies) / len(self.latencies)

    def quantile(self, part: float) -> float:
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else math.nan


class Cell:
    """`nodes` machines with `workers` each, and so many entrances, which requests come to in turn.

    Without a policy, the machines share one queue. A node refuses requests beyond `queue_size` that wait.
    """

    def __init__(
        self,
        nodes: int,
        workers: int,
        times: Times,
        policy: Callable[[random.Random], Policy] | None,
        *,
        entrances: int = 1,
        queue_size: float = math.inf,
        seed: int = 1,
    ) -> None:
        self.env = simpy.Environment()
        self.chance = random.Random(seed)
        self.answers = Answers()
        self.workers = workers
        self._times = times
        self._queue_size = queue_size
        one = policy is None
        self.nodes: Sequence[Node] = (
            [Node(0, nodes * workers)] if one else [Node(number, workers) for number in range(nodes)]
        )
        self._policies = [(policy or Random)(self.chance) for _ in range(1 if one else entrances)]
        self._turn = 0
        self._warm_up = math.inf
        self._in_flight = 0
        self._changed = 0.0
        self.recent_waits: list[float] = []
        self.recent_work = 0.0
        """Seconds of service that began. For who scales by these two and sets them back."""

    def run(self, rate: Callable[[float], float], most: float, warm_up_seconds: float, seconds: float) -> Answers:
        """Requests by chance at `rate` (a second, by the time), which is never above `most`."""
        self._warm_up = warm_up_seconds
        self._changed = warm_up_seconds
        self._next(rate, most)
        self.env.run(until=warm_up_seconds + seconds)
        self._count(0)
        self.answers.seconds = seconds
        return self.answers

    def _next(self, rate: Callable[[float], float], most: float) -> None:
        def arrive(_: Any) -> None:
            if self.chance.random() * most < rate(self.env.now):
                self._arrived()
            self._next(rate, most)

        self._after(self.chance.expovariate(most), arrive)

    def _after(self, seconds: float, then: Callable[[Any], None]) -> None:
        self.env.timeout(seconds).callbacks.append(then)

    def _arrived(self) -> None:
        self._turn = (self._turn + 1) % len(self._policies)
        job = Job(self.env.now, self._times(self.chance), self._turn)
        policy = self._policies[job.entrance]
        self.answers.arrived += 1
        job.node = policy.choose(self.nodes)
        if len(job.node.queue) >= self._queue_size:
            self.answers.refused += 1
            return
        policy.sent(job.node)
        self._count(1)
        job.node.queue.append(job)
        self._serve(job.node)

    def _serve(self, node: Node) -> None:
        while node.queue and node.busy < node.workers:
            job = node.queue.popleft()
            node.busy += 1
            wait = self.env.now - job.arrived
            self.recent_waits.append(wait)
            self.recent_work += job.seconds
            if job.arrived >= self._warm_up:
                self.answers.waits.append(wait)
            self._after(job.seconds, partial(self._done, job))

    def _done(self, job: Job, _: Any) -> None:
        node = job.node
        assert node
        self._policies[job.entrance].done(node)
        node.busy -= 1
        self.answers.answered += 1
        self._count(-1)
        if job.arrived >= self._warm_up:
            self.answers.latencies.append(self.env.now - job.arrived)
        self._serve(node)

    def _count(self, change: int) -> None:
        now = self.env.now
        if now > self._changed:
            self.answers.in_flight_seconds += self._in_flight * (now - self._changed)
            self._changed = now
        self._in_flight += change

    @property
    def in_flight(self) -> int:
        return self._in_flight
