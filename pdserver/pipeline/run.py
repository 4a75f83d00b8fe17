"""One request's way through a graph: which node runs next, and with what. Pure: an executor runs the nodes.

The same code schedules pipelines in the front end, where nodes are workers, and fused graphs in a worker, where nodes
are calls. Every work that it starts is settled once, or cancelled; the run ends once, with outputs or a failure.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Protocol

import msgspec

from pdarchiver.pipeline.graph import FAILURES, POSITIONS, Graph, Node, Ref, Source
from pdserver.errors import HandlerFailed, InvalidRequest, Kind, PdError
from pdserver.pipeline.values import Item, Value, Values, gathered, is_true, items_of, json_item, positions
from pdserver.types import Failure

Result = Values | Failure
_SAME_AGAIN = frozenset({Kind.INVALID, Kind.FORBIDDEN, Kind.UNSUPPORTED, Kind.TOO_LARGE, Kind.WORKER_DIED})
"""Failures that another try would have, too: what has ended two workers would end two more."""
MOST_WAITING = 50_000
"""Works of one request that an executor takes before they run: fan-outs in one another multiply."""
TOO_MANY = f"more than {MOST_WAITING:,} runs of its nodes would wait at once (each): send fewer items"


class Executor(Protocol):
    """What runs the nodes."""

    def start(self, work: Work) -> None:
        """Run a node, and call `work.settle` with what it gave, now or later, unless it is cancelled first.

        It raises nothing: what can't be run is settled with a failure."""

    def later(self, seconds: float, callback: Callable[[], None]) -> Callable[[], object]:
        """Call back after this time. Returns what calls that off, which does nothing when it is too late."""


class _Running(Protocol):
    def begin(self) -> None: ...

    def cancel(self) -> None: ...


class Work:
    """One run of a node for one item. `node.body` is a model, Python, or a fused graph."""

    __slots__ = ("_executor", "_settled", "inputs", "node", "on_cancel", "on_over", "over", "path")

    def __init__(
        self, path: str, node: Node, inputs: Values, executor: Executor, settled: Callable[[Result], None]
    ) -> None:
        self.path = path
        """Of the node, from the pipeline's top: "read/rotate"."""
        self.node = node
        self.inputs = inputs
        self.on_cancel: Callable[[], None] | None = None
        """Set by the executor: called when nobody needs the outcome any more. While it starts the work, that can be
        before this is set; `over` says so."""
        self.on_over: Callable[[], None] | None = None
        """Set by the executor: called once it is cancelled, or settled and what follows from that has begun."""
        self.over = False
        self._executor = executor
        self._settled = settled

    def begin(self) -> None:
        self._executor.start(self)

    def settle(self, result: Result) -> None:
        """Without effect after the first time, and once it is cancelled."""
        if not self.over:
            self.over = True
            self.on_cancel = None  # who runs it refers to it as well: without cycles, values are freed at once
            self._settled(result)
            self._tell()

    def cancel(self) -> None:
        if not self.over:
            self.over = True
            on_cancel, self.on_cancel = self.on_cancel, None
            if on_cancel is not None:
                on_cancel()
            self._tell()

    def _tell(self) -> None:
        on_over, self.on_over = self.on_over, None
        if on_over is not None:
            on_over()


class Plan:
    """A graph, prepared for runs: each value that somebody takes has its slot."""

    def __init__(self, graph: Graph, place: str = "") -> None:
        self.graph = graph
        self.steps = [
            Step(index, node, f"{place}/{name}" if place else name)
            for index, (name, node) in enumerate(graph.nodes.items())
        ]
        by_name = {step.node.name: step for step in self.steps}
        refs = [ref for step in self.steps for ref in step.refs]
        slots = {ref: slot for slot, ref in enumerate(dict.fromkeys([*refs, *_refs(graph.outputs.values())]))}
        for ref, slot in slots.items():
            if ref.node:
                by_name[ref.node].gives.append((ref.name, slot))
        for step in self.steps:
            step.connect(slots, by_name)
        self.slots = len(slots)
        self.inputs = [(ref.name, slot) for ref, slot in slots.items() if not ref.node]
        self.outputs = [(name, places, True) for name, places, _ in _places(graph.outputs, slots)]
        self.waits = [step.waits_for for step in self.steps]
        self.first = [step for step in self.steps if not step.waits_for]

    def leaves(self) -> list[Step]:
        """The steps that an executor runs, also those of nodes' own graphs."""
        found: list[Step] = []
        for step in self.steps:
            found += [step] if step.plan is None else step.plan.leaves()
        return found


class Step:
    """A node in its place in the plan."""

    def __init__(self, index: int, node: Node, path: str) -> None:
        self.index = index
        self.node = node
        self.path = path
        self.plan = Plan(node.body, path) if isinstance(node.body, Graph) and node.body.fuse != "yes" else None
        """Of a graph whose nodes run one by one."""
        self.is_watched = bool(node.repeat or node.retry or node.timeout_seconds)
        """Whether one try may not be all."""
        self.refs = [*([node.when.ref] if node.when else []), *_refs(node.inputs.values())]
        self.takes: list[tuple[str, list[int], bool]] = []
        """Its inputs: name, the slots to look in, whether it is optional."""
        self.condition = -1
        """The slot of its condition's value; -1: it has none."""
        self.gives: list[tuple[str, int]] = []
        """Its outputs that somebody takes, and their slots."""
        self.waits_for = 0
        """How many nodes it takes from."""
        self.next: list[Step] = []
        """The nodes that take from it."""

    @property
    def wanted(self) -> tuple[str, ...]:
        """The outputs that others take."""
        return tuple(name for name, _ in self.gives)

    def failure(self, kind: Kind, text: str) -> Failure:
        """One that `placed` takes."""
        return Failure(kind, text if self.plan is None else f"node {self.path}: {text}")

    def placed(self, failure: Failure, item: int | None = None) -> Failure:
        """The failure with the place where it happened. What fails in a graph of its own says the inner place."""
        message = failure.message
        if self.plan is not None or (isinstance(self.node.body, Graph) and message.startswith("node ")):
            message = message if item is None else f"{message} (item {item} of {self.path})"
        else:
            message = f"node {self.path}: {message}" if item is None else f"node {self.path}, item {item}: {message}"
        return msgspec.structs.replace(failure, message=message)

    def connect(self, slots: Mapping[Ref, int], by_name: Mapping[str, Step]) -> None:
        self.takes = _places(self.node.inputs, slots)
        if self.node.when:
            self.condition = slots[self.node.when.ref]
        before = dict.fromkeys(ref.node for ref in self.refs if ref.node)
        self.waits_for = len(before)
        for name in before:
            by_name[name].next.append(self)


def _refs(sources: Iterable[Source]) -> list[Ref]:
    return [ref for source in sources for ref in source.refs]


def _places(sources: Mapping[str, Source], slots: Mapping[Ref, int]) -> list[tuple[str, list[int], bool]]:
    return [(name, [slots[ref] for ref in source.refs], source.optional) for name, source in sources.items()]


class Run:
    """A graph on its way for one set of inputs. `done` is called once, with the outputs that are there or with the
    failure, and not after `cancel`. It may be called before `begin` returns."""

    def __init__(self, plan: Plan, inputs: Values, executor: Executor, done: Callable[[Result], None]) -> None:
        self._plan = plan
        self._executor = executor
        self._done = done
        self._values: list[Value | None] = [None] * plan.slots
        for name, slot in plan.inputs:
            self._values[slot] = inputs.get(name)
        self._waits = plan.waits.copy()
        self._left = len(plan.steps)
        self._due = deque(plan.first)
        self._active: dict[int, _Running] = {}
        self._goes_on = False
        self._over = False

    def begin(self) -> None:
        self._go_on()

    def cancel(self) -> None:
        """End it: whatever runs is cancelled. Idempotent."""
        self._over = True
        active, self._active = self._active, {}
        for running in active.values():
            running.cancel()

    def _go_on(self) -> None:
        """Begin the nodes that are due. Those that end at once come back here by a loop, and not by recursion."""
        if self._goes_on:
            return
        self._goes_on = True
        while self._due and not self._over:
            self._begin(self._due.popleft())
        self._goes_on = False
        if not (self._left or self._over):
            self._over = True
            self._done(_found(self._plan.outputs, self._values) or {})

    def _begin(self, step: Step) -> None:
        try:
            inputs = self._inputs(step)
            if inputs is None:
                self._pass_on(step, {})
                return
            settled = partial(self._ended, step)
            if step.node.each:
                running: _Running = _Fan(step, inputs, self._executor, settled)
            else:
                running = _one(step, inputs, self._executor, settled)
        except PdError as error:
            self._fail(Failure(error.kind, f"node {step.path}: {error}"))
            return
        self._active[step.index] = running
        running.begin()

    def _inputs(self, step: Step) -> dict[str, Value] | None:
        """What the node is given; None: it does not run. Raises what `_misfit` makes."""
        when = step.node.when
        if when is not None:
            value = self._values[step.condition]
            try:
                if value is None or is_true(value) is not when.holds:
                    return None
            except InvalidRequest as error:
                raise _misfit([when.ref], f"its condition {when.ref}: {error}") from None
        return _found(step.takes, self._values)

    def _ended(self, step: Step, result: Result) -> None:
        if self._over:  # others are being cancelled, and that ends this one
            return
        del self._active[step.index]
        if not isinstance(result, Failure):
            self._pass_on(step, result)
        elif step.node.on_error == "skip" and not step.node.each:
            self._pass_on(step, {FAILURES: _failures({0: result})})
        else:
            self._fail(result if step.node.each else step.placed(result))

    def _pass_on(self, step: Step, outputs: Values) -> None:
        for name, slot in step.gives:
            self._values[slot] = outputs.get(name)
        self._left -= 1
        for other in step.next:
            self._waits[other.index] -= 1
            if not self._waits[other.index]:
                self._due.append(other)
        self._go_on()

    def _fail(self, failure: Failure) -> None:
        self.cancel()
        self._done(failure)


def _found(takes: Iterable[tuple[str, list[int], bool]], values: Sequence[Value | None]) -> dict[str, Value] | None:
    """The values by name. None: one is missing that is not optional."""
    found: dict[str, Value] = {}
    for name, slots, optional in takes:
        for slot in slots:
            value = values[slot]
            if value is not None:
                found[name] = value
                break
        else:
            if not optional:
                return None
    return found


def _misfit(refs: list[Ref], text: str) -> PdError:
    """These values are not what a node takes. The client may be to blame, unless nodes gave all of them."""
    return HandlerFailed(text) if all(ref.node for ref in refs) else InvalidRequest(text)


class _Fan:
    """A node's runs for all of its items."""

    def __init__(
        self, step: Step, inputs: dict[str, Value], executor: Executor, done: Callable[[Result], None]
    ) -> None:
        """Raises what `_misfit` makes, for lists of different lengths, and for what is no list."""
        self._step = step
        self._executor = executor
        self._done = done
        self._names = [name for name in step.wanted if name not in (FAILURES, POSITIONS)]
        self._rows = _rows(step.node, inputs)
        self._results: list[Result] = [{}] * len(self._rows)
        self._left = len(self._rows)
        self._active: dict[int, _Running] = {}
        self._over = False

    def begin(self) -> None:
        rows, self._rows = self._rows, []
        for index, inputs in enumerate(rows):
            running = _one(self._step, inputs, self._executor, partial(self._ended, index))
            self._active[index] = running
            running.begin()
            if self._over:  # it has failed, and perhaps another
                return
        if not rows:
            self._finish()

    def cancel(self) -> None:
        self._over = True
        active, self._active = self._active, {}
        for running in active.values():
            running.cancel()

    def _ended(self, index: int, result: Result) -> None:
        if self._over:
            return
        del self._active[index]
        result = self._checked(result)
        if isinstance(result, Failure) and self._step.node.on_error == "fail":
            self.cancel()
            self._done(self._step.placed(result, index))
            return
        self._results[index] = result
        self._left -= 1
        if not self._left:
            self._finish()

    def _checked(self, result: Result) -> Result:
        """A failure instead of an item's outputs, if no list can have them."""
        if not isinstance(result, Failure):
            for name in self._names:
                if isinstance(result.get(name), list):
                    text = f"its output {name} is a list, and would be in a list of lists: give one value for each item"
                    return self._step.failure(Kind.HANDLER, text)
        return result

    def _finish(self) -> None:
        self._over = True
        results, names, node = self._results, self._names, self._step.node
        whole = {
            index: result
            for index, result in enumerate(results)
            if not isinstance(result, Failure) and all(name in result for name in names)
        }
        outputs: dict[str, Value] = {name: gathered(result[name] for result in whole.values()) for name in names}
        if POSITIONS in self._step.wanted:
            outputs[POSITIONS] = positions(list(whole))
        if node.on_error == "skip":
            outputs[FAILURES] = _failures(
                {i: result for i, result in enumerate(results) if isinstance(result, Failure)}
            )
        self._done(outputs)


def _failures(failed: Mapping[int, Failure]) -> Item:
    return json_item([{"item": index, "message": failure.message} for index, failure in failed.items()])


def _rows(node: Node, inputs: dict[str, Value]) -> list[dict[str, Value]]:
    """The inputs of each item."""
    fitting = _refs(node.inputs[name] for name in node.each)
    columns: dict[str, Sequence[Value]] = {}
    for name in node.each:
        if name not in inputs:  # an optional one that is not there
            continue
        try:
            columns[name] = items_of(inputs[name])
        except InvalidRequest as error:
            raise _misfit(fitting, f"input {name}, whose items it takes one by one (each): {error}") from None
    if len({len(items) for items in columns.values()}) > 1:
        told = ", ".join(f"{name} has {len(items)}" for name, items in columns.items())
        raise _misfit(fitting, f"inputs whose items belong together (each) differ in length: {told}")
    names = tuple(columns)
    return [{**inputs, **dict(zip(names, row, strict=True))} for row in zip(*columns.values(), strict=True)]


def _one(step: Step, inputs: dict[str, Value], executor: Executor, done: Callable[[Result], None]) -> _Running:
    """The node's run for one item."""
    if step.is_watched:
        return _Task(step, inputs, executor, done)
    return _try(step, inputs, executor, done)


def _try(step: Step, inputs: dict[str, Value], executor: Executor, done: Callable[[Result], None]) -> Work | Run:
    if step.plan is None:
        return Work(step.path, step.node, inputs, executor, done)
    return Run(step.plan, inputs, executor, done)


class _Task:
    """A node's run for one item, if it may take several: its rounds, and the tries of each, within their time."""

    def __init__(
        self, step: Step, inputs: dict[str, Value], executor: Executor, done: Callable[[Result], None]
    ) -> None:
        self._step = step
        self._inputs = inputs
        self._executor = executor
        self._done = done
        self._rounds = 1
        self._tries = 0
        self._running: Work | Run | None = None
        self._call_off: Callable[[], object] | None = None
        self._again = False
        self._goes_on = False

    def begin(self) -> None:
        """Tries that end at once come back here by a loop, and not by recursion."""
        self._again = True
        if self._goes_on:
            return
        self._goes_on = True
        while self._again:
            self._again = False
            self._try()
        self._goes_on = False

    def cancel(self) -> None:
        self._again = False
        running, self._running = self._running, None
        self._call_limit_off()
        if running is not None:
            running.cancel()

    def _try(self) -> None:
        self._tries += 1
        self._running = running = _try(self._step, self._inputs, self._executor, self._ended)
        seconds = self._step.node.timeout_seconds
        if seconds:
            self._call_off = self._executor.later(seconds, self._timed_out)
        running.begin()

    def _call_limit_off(self) -> None:
        if self._call_off is not None:
            self._call_off()
            self._call_off = None

    def _timed_out(self) -> None:
        running = self._running
        if running is not None:
            running.cancel()
            seconds = self._step.node.timeout_seconds
            self._ended(self._step.failure(Kind.DEADLINE, f"it took longer than {seconds:g} s (timeout)"))

    def _ended(self, result: Result) -> None:
        self._running = None
        self._call_limit_off()
        if isinstance(result, Failure):
            if self._tries > self._step.node.retry or result.kind in _SAME_AGAIN:
                self._done(result)
            else:
                self.begin()
            return
        repeat = self._step.node.repeat
        if repeat is not None and self._rounds < repeat.at_most:
            try:
                again = repeat.while_ in result and is_true(result[repeat.while_])
            except InvalidRequest as error:
                text = f"its output {repeat.while_} (repeat): {error}"
                self._done(self._step.failure(Kind.HANDLER, text))
                return
            if again:
                self._rounds += 1
                self._tries = 0
                carried = {name: result[output] for name, output in repeat.carry.items() if output in result}
                self._inputs = {**self._inputs, **carried}
                self.begin()
                return
        self._done(result)
