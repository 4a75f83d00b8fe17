"""Time that passes when a test says so, and nodes that behave as a seed says.

What a node does in a try is given by the seed, its path, its inputs and the time; so the definition of graphs in
`definition.py` can ask the same, and needs no word of the scheduler's. Every value that a node gives names what it was
made of, back to the request: a value that goes astray can't be missed.
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
import math
import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple, TypeAlias

import msgspec
import numpy as np
from msgspec.structs import replace

from pdserver.errors import Kind
from pdserver.formats.elements import elements, packed
from pdserver.pipeline.run import Plan, Result, Run, Work
from pdserver.pipeline.values import JSON, TEXT, Item, Value, json_item
from pdserver.tensors import array, tensor
from pdserver.types import Failure, Part, Tensor


class Flag(Enum):
    """What a condition may find."""

    TRUE = "flag true"
    FALSE = "flag false"
    BAD = "flag bad"


@dataclass(frozen=True)
class Failed:
    """An item of `$failures`. By what it failed can hang on the order of what happens at the same time."""

    item: int
    messages: frozenset[str]


Plain: TypeAlias = "str | Flag | Failed | tuple[Plain, ...]"
"""A value, whatever form it has on its way."""

_FLAGS: dict[Flag, list[Part | Tensor]] = {
    Flag.TRUE: [
        Part("", JSON, b"true"), Part("", JSON, b"[0]"), Part("", "application/json; charset=utf-8", b'{"a": 0}'),
        Part("", JSON, b"0.5"), Part("", TEXT, b"no"), Part("", "image/png", b"\0"), tensor("", np.float32(-0.5)),
        tensor("", np.array([[True]])), tensor("", [math.nan]), tensor("", ["x"]),
        Tensor("", "bfloat16", (1, 1), b"\x80\x3f"),
    ],
    Flag.FALSE: [
        Part("", JSON, b"false"), Part("", JSON, b" null "), Part("", JSON, b"0"), Part("", JSON, b"[]"),
        Part("", JSON, b'""'), Part("", "application/JSON;charset=utf-8", b"{}"), Part("", TEXT, b""),
        Part("", "", b""), tensor("", np.int64(0)), tensor("", [[-0.0]]), tensor("", np.array([False])),
        tensor("", [b""]), Tensor("", "bfloat16", (), b"\0\0"),
    ],
    Flag.BAD: [
        Part("", JSON, b"tru"), Part("", JSON, b""), Part("", JSON, b"[" * 100_000), Part("", JSON, b"1e999"),
        tensor("", [1, 1]), tensor("", np.zeros((2, 0))),
    ],
}  # fmt: skip


def flags(flag: Flag) -> list[Item]:
    """All forms of it."""
    return [Item(replace(given, name=flag.value)) for given in _FLAGS[flag]]


def form(plain: Plain, dice: random.Random) -> Value:
    """The value in one of its forms."""
    if isinstance(plain, Flag):
        return dice.choice(flags(plain))
    kind = dice.randrange(3)
    if isinstance(plain, tuple):
        texts = [one for one in plain if isinstance(one, str)]  # nodes give no other lists
        if kind == 0:
            return [item for item in (form(text, dice) for text in texts) if isinstance(item, Item)]
        return json_item(texts) if kind == 1 else Item(tensor("", np.array(texts, object)))
    text = str(plain)
    if kind == 0:
        return Item(Part("", TEXT, text.encode()))
    return json_item(text) if kind == 1 else Item(Tensor("", "bytes", (), packed([text.encode()])))


def read(value: Value) -> Plain:
    """What the value is, in any form."""
    if isinstance(value, list):
        return tuple(map(read, value))
    given = value.given
    if given.name.startswith("flag"):
        return Flag(given.name)
    if isinstance(given, Tensor):
        if given.dtype != "bytes":
            return tuple(map(str, array(given).tolist()))
        texts = tuple(text.decode() for text in elements(given.data, math.prod(given.shape)))
        return texts if given.shape else texts[0]
    held = msgspec.json.decode(given.data) if given.content_type == JSON else bytes(given.data).decode()
    if isinstance(held, str):
        return held
    return tuple(one if isinstance(one, str) else Failed(one["item"], frozenset([one["message"]])) for one in held)


def _named(plain: Plain) -> str:
    if isinstance(plain, Failed):
        return str(plain.item)
    if isinstance(plain, tuple):
        return f"[{','.join(map(_named, plain))}]"
    return plain.value if isinstance(plain, Flag) else plain


class Start(NamedTuple):
    """A try of a node. `key` stands for the inputs."""

    at: float
    path: str
    key: str

    @classmethod
    def of(cls, at: float, path: str, inputs: Mapping[str, Plain]) -> Start:
        told = " ".join(f"{name}={_named(inputs[name])}" for name in sorted(inputs))
        return cls(at, path, hashlib.sha1(told.encode(), usedforsecurity=False).hexdigest()[:10])


class Behaviour(NamedTuple):
    seconds: float
    """inf: it never ends."""
    at_once: bool
    """Whether what takes no time ends within its start."""
    outcome: dict[str, Plain] | Failure
    dice: random.Random


class Nature:
    """How nodes behave under a seed."""

    KINDS = (Kind.INVALID, Kind.TOO_LARGE, Kind.HANDLER, Kind.WORKER_DIED, Kind.OVERLOADED)

    def __init__(self, seed: int) -> None:
        self._seed = seed
        dice = random.Random(seed)
        self._lengths = dice.choices([0, 1, 2, 3, 5, 200], [1, 2, 8, 8, 4, 1], k=2)
        self._failing = dice.choice([0.0, 0.0, 0.02, 0.2])
        self._endless = dice.choice([0.0, 0.0, 0.05])
        self._missing = dice.choice([0.0, 0.0, 0.1])
        self._bad = dice.choice([0.0, 0.0, 0.1])

    def length(self, path: str) -> int:
        length = self._lengths[len(path) % 2]
        return min(length, 2) if "/" in path else length

    def flag(self, dice: random.Random) -> Flag:
        return Flag.BAD if dice.random() < self._bad else dice.choice([Flag.TRUE, Flag.FALSE])

    def of(self, start: Start, again: int) -> Behaviour:
        """`again`: how many such tries began at the same time before."""
        dice = random.Random(f"{self._seed} {start} {again}")
        chance = dice.random()
        seconds = math.inf if chance < self._endless else 0.0 if chance < 0.4 else dice.uniform(0.1, 2.0)
        at_once = dice.random() < 0.7
        if dice.random() < self._failing:
            failure = Failure(dice.choice(self.KINDS), f"it failed {again}")
            return Behaviour(seconds, at_once, failure, dice)
        name = f"{start.path}:{start.key}:{start.at:g}:{again}"
        whole: dict[str, Plain] = {
            "y": name,
            "l": tuple(f"{name}@{index}" for index in range(self.length(start.path))),
            "f": self.flag(dice),
        }
        return Behaviour(
            seconds, at_once, {key: one for key, one in whole.items() if dice.random() >= self._missing}, dice
        )


class Clock:
    def __init__(self) -> None:
        self.now = 0.0
        self._numbers = itertools.count()
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._off: set[int] = set()

    def later(self, seconds: float, callback: Callable[[], None]) -> Callable[[], object]:
        number = next(self._numbers)
        heapq.heappush(self._due, (self.now + seconds, number, callback))
        return lambda: self._off.add(number)

    def pass_all(self) -> None:
        """Until nothing is left to do."""
        while self._due:
            self.now, number, callback = heapq.heappop(self._due)
            if number not in self._off:
                callback()


class Trial:
    """One run, with its nodes. It looks at everything that the run does."""

    def __init__(self, plan: Plan, inputs: Mapping[str, Value], nature: Nature, clock: Clock) -> None:
        self.clock = clock
        self.starts: list[Start] = []
        self.results: list[Result] = []
        self.ended_at = math.inf
        self.works: list[Work] = []
        self.cancelled = 0
        self._nature = nature
        self._over = False
        self._answered: Counter[Work] = Counter()
        self._again: Counter[Start] = Counter()
        self._seen: dict[int, tuple[Value, Plain]] = {}
        self.run = Run(plan, inputs, self, self._done)

    def cancel(self) -> None:
        self._over = True
        self.run.cancel()

    def _done(self, result: Result) -> None:
        assert not self._over, "it ended before"
        self._over = True
        self.results.append(result)
        self.ended_at = self.clock.now
        self.run.cancel()  # as who cleans up may do

    def _read(self, value: Value) -> Plain:
        """Many items have the same long list."""
        if id(value) not in self._seen:
            self._seen[id(value)] = value, read(value)
        return self._seen[id(value)][1]

    def later(self, seconds: float, callback: Callable[[], None]) -> Callable[[], object]:
        return self.clock.later(seconds, callback)

    def start(self, work: Work) -> None:
        assert not self._over, "a work starts after the end"
        assert not work.over
        assert work not in self.works[-1:]
        start = Start.of(self.clock.now, work.path, {name: self._read(value) for name, value in work.inputs.items()})
        self.starts.append(start)
        self.works.append(work)
        behaviour = self._nature.of(start, self._again[start])
        self._again[start] += 1
        work.on_cancel = lambda: self._on_cancel(work)
        if behaviour.seconds == 0.0 and behaviour.at_once:
            self._settle(work, behaviour)
        elif behaviour.seconds < math.inf:
            self.clock.later(behaviour.seconds, lambda: self._settle(work, behaviour))

    def _on_cancel(self, work: Work) -> None:
        assert not self._answered[work], "what is settled is cancelled"
        assert work.over
        self.cancelled += 1

    def _settle(self, work: Work, behaviour: Behaviour) -> None:
        """Also what is cancelled, as a late answer would; and twice."""
        if not work.over:
            self._answered[work] += 1
        if isinstance(behaviour.outcome, Failure):
            work.settle(behaviour.outcome)
        else:
            work.settle({name: form(plain, behaviour.dice) for name, plain in behaviour.outcome.items()})
        work.settle(Failure(Kind.HANDLER, "it is settled twice"))

    def check_end(self) -> None:
        assert all(work.over for work in self.works), "a work was left alone"
        assert self._answered.total() + self.cancelled == len(self.works)
        assert max(self._answered.values(), default=1) == 1
