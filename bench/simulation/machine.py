"""One machine: front ends, engines and workers as processes that share its cores.

A process takes all that has come while it was busy, as a turn of an event loop does, and spends CPU time on it. Batches
form as in the engine: an idle worker takes what waits, at most its share if batches take long. A worker with fast
batches may have a second one ahead. What the engine does beyond that is left out: it gathers a share for a moment after
a long batch, and its workers spin for a moment before they sleep.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

import simpy

Events = Generator[Any, Any, None]
_LONG_SECONDS = 0.002
"""As in the engine: workers share what waits if a batch takes this long."""
_MOST_AT_ONCE = 32
"""Requests and batches of answers in a turn. Others come in the next one."""


@dataclass(frozen=True)
class Cost:
    """CPU seconds of `n` requests at once."""

    at_once: float
    """Whatever their number is."""
    each: float

    def of(self, count: int) -> float:
        return self.at_once + self.each * count

    def halved(self) -> Cost:
        """Of one way: a request passes a front end and an engine twice, there and back."""
        return Cost(self.at_once / 2, self.each / 2)


NOTHING = Cost(0.0, 0.0)


@dataclass(frozen=True)
class Workload:
    name: str
    single: Cost
    """Of a process that is front end and engine, there and back."""
    front_end: Cost
    """Of a front end beside the engine, there and back."""
    engine: Cost
    """Of an engine with front ends beside it, there and back."""
    batch: Cost
    """Of a worker."""
    batch_size: int


@dataclass(frozen=True)
class Layout:
    """How the server is laid out. Without front ends, the engine's process is one."""

    front_ends: int
    """Processes beside each engine; 0: none."""
    workers: int
    """Of each server."""
    servers: int = 1
    """Whole servers on one port that share nothing."""

    @property
    def processes(self) -> int:
        return self.servers * (self.front_ends + 1 + self.workers)


@dataclass
class Outcome:
    asked: int = 0
    answered: int = 0
    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    """Of the requests that were answered in these seconds."""
    batches: int = 0

    @property
    def rate(self) -> float:
        return len(self.latencies) / self.seconds

    def quantile(self, part: float) -> float:
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else math.nan


class Request:
    __slots__ = ("asked", "door")

    def __init__(self, door: _Process, asked: float) -> None:
        self.door = door
        """The process that its connection belongs to."""
        self.asked = asked


class _Answers:
    """A batch that a worker has answered, on its way back."""

    __slots__ = ("requests", "worker")

    def __init__(self, worker: _Worker | None, requests: list[Request]) -> None:
        self.worker = worker
        self.requests = requests


Item = Request | _Answers


class _Process:
    """`handle` is called with what a turn took, when its CPU time has been spent."""

    urgent = True
    """Whether it takes a core from a worker: it has slept, so the system lets it run first."""

    def __init__(self, machine: Machine, cost: Cost, cores: Sequence[simpy.PreemptiveResource]) -> None:
        self.machine = machine
        self.env = machine.env
        self.cost = cost
        self.cores = cores
        self.inbox: list[Item] = []
        self.handle: Callable[[list[Item]], None] = lambda items: None
        self._asleep: Any = None
        self.env.process(self.run())

    def put(self, items: Sequence[Item]) -> None:
        self.inbox.extend(items)
        self.wake()

    def wake(self) -> None:
        if self._asleep is not None:
            self._asleep.succeed()
            self._asleep = None

    def sleep(self) -> Events:
        self._asleep = self.env.event()
        yield self._asleep
        if self.machine.wake_seconds:
            yield self.env.timeout(self.machine.wake_seconds)

    def run(self) -> Events:
        while True:
            if not self.inbox:
                yield from self.sleep()
            items, self.inbox = self.inbox[:_MOST_AT_ONCE], self.inbox[_MOST_AT_ONCE:]
            count = sum(len(item.requests) if isinstance(item, _Answers) else 1 for item in items)
            yield from self.compute(self.cost.of(count))
            self.handle(items)

    def compute(self, seconds: float) -> Events:
        """Have a core for so long, with interruptions if others are urgent."""
        if not self.cores:  # there is one for everybody
            yield self.env.timeout(seconds)
            return
        while seconds > 0:
            core = min(self.cores, key=lambda each: each.count - each.capacity + len(each.queue))
            started = math.inf
            try:
                with core.request(priority=0 if self.urgent else 1, preempt=self.urgent) as turn:
                    yield turn
                    started = self.env.now
                    yield self.env.timeout(seconds)
                    return
            except simpy.Interrupt:
                seconds -= max(0.0, self.env.now - started)


class _Worker(_Process):
    urgent = False

    def __init__(self, machine: Machine, cost: Cost, cores: Sequence[simpy.PreemptiveResource]) -> None:
        self.batches: deque[list[Request]] = deque()
        """In its socket."""
        self.held: deque[int] = deque()
        """The sizes of the batches that the engine has no answer to yet."""
        self.back: Callable[[_Answers], None] = lambda answers: None
        super().__init__(machine, cost, cores)

    def give(self, batch: list[Request]) -> None:
        self.held.append(len(batch))
        self.batches.append(batch)
        self.wake()

    def run(self) -> Events:
        while True:
            if not self.batches:
                yield from self.sleep()
            batch = self.batches.popleft()
            yield from self.compute(self.cost.of(len(batch)))
            self.machine.outcome.batches += 1
            self.back(_Answers(self, batch))


class _Server:
    """An engine, its workers, and its front ends if it has some beside it."""

    def __init__(self, machine: Machine, workload: Workload, layout: Layout, cores: Pinned) -> None:
        self._batch_size = workload.batch_size
        self._long = workload.batch.of(1) >= _LONG_SECONDS
        self._machine = machine
        self._queue: deque[Request] = deque()
        cost = workload.engine if layout.front_ends else workload.single
        self.engine = _Process(machine, cost.halved(), cores.engine)
        self.engine.handle = self._turn
        self._workers = [_Worker(machine, workload.batch, cores.worker) for _ in range(layout.workers)]
        for worker in self._workers:
            worker.back = lambda answers: self.engine.put([answers])
        self.doors = [self.engine]
        if layout.front_ends:
            places = cores.front_ends or [()]
            self.doors = [
                _Process(machine, workload.front_end.halved(), places[number % len(places)])
                for number in range(layout.front_ends)
            ]
            for door in self.doors:
                door.handle = self._pass_on

    def _pass_on(self, items: list[Item]) -> None:
        """A front end's turn."""
        self.engine.put([item for item in items if isinstance(item, Request)])
        for item in items:
            if isinstance(item, _Answers):
                self._machine.answered(item.requests)

    def _turn(self, items: list[Item]) -> None:
        """The engine's."""
        back: dict[_Process, list[Request]] = {}
        for item in items:
            if isinstance(item, Request):
                self._queue.append(item)
                continue
            assert item.worker
            item.worker.held.popleft()
            for request in item.requests:
                back.setdefault(request.door, []).append(request)
        for door, requests in back.items():
            if door is self.engine:
                self._machine.answered(requests)
            else:
                door.put([_Answers(None, requests)])
        self._feed()

    def _feed(self) -> None:
        for worker in self._workers:
            if not worker.held and self._queue:
                self._give(worker)
        if not self._long:
            for worker in self._workers:
                if len(worker.held) == 1 and len(self._queue) >= worker.held[0]:
                    self._give(worker)

    def _give(self, worker: _Worker) -> None:
        size = min(self._batch_size, len(self._queue))
        if self._long:
            running = sum(sum(each.held) for each in self._workers)
            size = min(size, max(1, -(-(len(self._queue) + running) // len(self._workers))))
        worker.give([self._queue.popleft() for _ in range(size)])


@dataclass(frozen=True)
class Pinned:
    """The cores that the processes of a server may use. Empty: any, and there are enough."""

    engine: Sequence[simpy.PreemptiveResource] = ()
    worker: Sequence[simpy.PreemptiveResource] = ()
    front_ends: Sequence[Sequence[simpy.PreemptiveResource]] = ()
    """Of the first, the second…, round and round."""


class Machine:
    """`cores` is how many there are. `pinned` binds the processes of each server to cores, by their numbers: those of
    the engine, of the workers, and of each front end."""

    def __init__(
        self,
        workload: Workload,
        layout: Layout,
        cores: int,
        *,
        seed: int = 1,
        wake_seconds: float = 0.0,
        network_seconds: float = 0.0,
        load: Cost = NOTHING,
        pinned: Sequence[tuple[int, int, Sequence[int]]] = (),
    ) -> None:
        self.env = simpy.Environment()
        self.wake_seconds = wake_seconds
        self.outcome = Outcome()
        self._network_seconds = network_seconds
        self._random = random.Random(seed)
        self._measuring = False
        self._closed = False
        if pinned:
            each = [simpy.PreemptiveResource(self.env, 1) for _ in range(cores)]
            places = [Pinned([each[a]], [each[b]], [[each[c]] for c in doors]) for a, b, doors in pinned]
        else:
            each = [simpy.PreemptiveResource(self.env, cores)] if layout.processes > cores else []
            places = [Pinned(each, each, [each])] * layout.servers
        servers = [_Server(self, workload, layout, place) for place in places]
        self.doors = [door for server in servers for door in server.doors]
        self._load = None
        if load != NOTHING:
            self._load = _Process(self, load, each)
            self._load.handle = self._ask_again

    def closed_loop(self, connections: int, warm_up_seconds: float, seconds: float) -> Outcome:
        """Clients that each wait for an answer before they ask again. Each belongs to a process by chance."""
        self._closed = True
        for _ in range(connections):
            door = self._random.choice(self.doors)
            door.put([self._asked(door)])
        return self._measured(warm_up_seconds, seconds)

    def open_loop(self, rate: float, connections: int, warm_up_seconds: float, seconds: float) -> Outcome:
        """Requests that come by chance, `rate` a second, over so many connections."""
        doors = [self._random.choice(self.doors) for _ in range(connections)]
        self.env.process(self._arrivals(rate, doors))
        return self._measured(warm_up_seconds, seconds)

    def _arrivals(self, rate: float, doors: Sequence[_Process]) -> Events:
        while True:
            yield self.env.timeout(self._random.expovariate(rate))
            door = self._random.choice(doors)
            door.put([self._asked(door)])

    def _measured(self, warm_up_seconds: float, seconds: float) -> Outcome:
        self.env.run(until=warm_up_seconds)
        self._measuring, self.outcome.batches, self.outcome.seconds = True, 0, seconds
        self.env.run(until=warm_up_seconds + seconds)
        return self.outcome

    def _asked(self, door: _Process) -> Request:
        self.outcome.asked += 1
        return Request(door, self.env.now)

    def answered(self, requests: list[Request]) -> None:
        self.outcome.answered += len(requests)
        if self._measuring:
            self.outcome.latencies.extend(self.env.now - request.asked for request in requests)
        if self._load is not None:
            self._load.put(list[Item](requests))
        elif self._closed:
            if not self._network_seconds:
                self._ask_again(list[Item](requests))
                return
            pause = self.env.timeout(self._network_seconds)
            pause.callbacks.append(lambda _: self._ask_again(list[Item](requests)))

    def _ask_again(self, items: list[Item]) -> None:
        for item in items:
            assert isinstance(item, Request)
            item.door.put([self._asked(item.door)])
