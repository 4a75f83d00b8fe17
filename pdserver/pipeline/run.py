"""One request's way through a graph: which node runs next, and with what. Pure: an executor runs the nodes.

The same code schedules pipelines in the front end, where nodes are workers, and fused graphs in a worker, where nodes
are calls. Every work that it starts is settled once, or cancelled; the run ends once, with outputs or a failure.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import msgspec

from pdarchiver.pipeline.graph import FAILURES, POSITIONS, Graph, Node, Ref, Source
from pdserver.errors import InvalidRequest, Kind, PdError
from pdserver.pipeline.values import Value, Values, gathered, is_true, items_of, json_item, positions
from pdserver.types import Failure

Result = Values | Failure
_SAME_AGAIN = frozenset({Kind.INVALID, Kind.FORBIDDEN, Kind.UNSUPPORTED, Kind.TOO_LARGE})
"""Failures that another try would have, too."""


class Executor(Protocol):
    """What runs the nodes."""

    def start(self, work: Work) -> None:
        """Run a node, and call `work.settle` with what it gave, now or later, unless it is cancelled first."""

    def later(self, seconds: float, callback: Callable[[], None]) -> Callable[[], object]:
        """Call back after this time. Returns what calls that off."""


class Work:
    """One run of a node for one item. `node.body` is a model, Python, or a fused graph."""

    __slots__ = ("_settled", "inputs", "node", "on_cancel", "over", "path")

    def __init__(self, path: str, node: Node, inputs: Values, settled: Callable[[Result], None]) -> None:
        self.path = path
        """Of the node, from the pipeline's top: "read/rotate"."""
        self.node = node
        self.inputs = inputs
        self.on_cancel: Callable[[], None] | None = None
        """Set by the executor: called when nobody needs the outcome any more."""
        self.over = False
        self._settled = settled

    def settle(self, result: Result) -> None:
        """Without effect after the first time, and once it is cancelled."""
        if not self.over:
            self.over = True
            self.on_cancel = None  # who runs it refers to it as well: without cycles, values are freed at once
            self._settled(result)

    def cancel(self) -> None:
        if not self.over:
            self.over = True
            on_cancel, self.on_cancel = self.on_cancel, None
            if on_cancel is not None:
                on_cancel()


class Plan:
    """A graph, prepared for runs."""

    def __init__(self, graph: Graph, place: str = "") -> None:
        self.graph = graph
        names = list(graph.nodes)
        places = {name: index for index, name in enumerate(names)}
        self.steps = [Step(graph.nodes[name], f"{place}/{name}" if place else name) for name in names]
        refs = [*(ref for step in self.steps for ref in step.refs), *_refs(graph.outputs)]
        for index, step in enumerate(self.steps):
            before = {places[ref.node] for ref in step.refs if ref.node}
            step.waits_for = len(before)
            for other in before:
                self.steps[other].next.append(index)
            step.wanted = tuple(dict.fromkeys(ref.name for ref in refs if ref.node == step.node.name))

    def leaves(self) -> list[Step]:
        """The steps that an executor runs, also those of nodes' own graphs."""
        found: list[Step] = []
        for step in self.steps:
            found += [step] if step.plan is None else step.plan.leaves()
        return found


class Step:
    """A node in its place in the plan."""

    def __init__(self, node: Node, path: str) -> None:
        self.node = node
        self.path = path
        self.plan = Plan(node.body, path) if isinstance(node.body, Graph) and node.body.fuse != "yes" else None
        """Of a graph whose nodes run one by one."""
        self.refs = [*_refs(node.inputs), *([node.when.ref] if node.when else [])]
        self.waits_for = 0
        """How many nodes it takes from."""
        self.next: list[int] = []
        """The places of the nodes that take from it."""
        self.wanted: tuple[str, ...] = ()
        """The outputs that others take."""


def _refs(sources: Mapping[str, Source]) -> list[Ref]:
    return [ref for source in sources.values() for ref in source.refs]


class Run:
    """A graph on its way for one set of inputs. `done` is called once, with the outputs that are there or with the
    failure, and not after `cancel`. It may be called before `begin` returns."""

    def __init__(self, plan: Plan, inputs: Values, executor: Executor, done: Callable[[Result], None]) -> None:
        self._plan = plan
        self._executor = executor
        self._done = done
        self._values: dict[Ref, Value] = {Ref("", name): value for name, value in inputs.items()}
        self._waits = [step.waits_for for step in plan.steps]
        self._left = len(plan.steps)
        self._due = deque(index for index, waits in enumerate(self._waits) if not waits)
        self._active: dict[int, _Fan] = {}
        self._goes_on = False
        self._over = False

    def begin(self) -> None:
        self._go_on()

    def cancel(self) -> None:
        """End it: whatever runs is cancelled. Idempotent."""
        self._over = True
        for fan in list(self._active.values()):
            fan.cancel()
        self._active.clear()

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
            self._done(_found(self._plan.graph.outputs, self._values))

    def _begin(self, index: int) -> None:
        step = self._plan.steps[index]
        node = step.node
        try:
            inputs = self._inputs(node)
            if inputs is None:
                self._ended(index, {})
                return
            fan = _Fan(step, inputs, self._executor, functools.partial(self._ended, index))
        except PdError as error:
            self._fail(_at(step.path, None, Failure.of(error)))
            return
        self._active[index] = fan
        fan.begin()

    def _inputs(self, node: Node) -> dict[str, Value] | None:
        """What the node is given; None: it does not run."""
        if node.when is not None:
            value = self._values.get(node.when.ref)
            try:
                if value is None or is_true(value) is not node.when.holds:
                    return None
            except InvalidRequest as error:
                raise InvalidRequest(f"its condition {node.when.ref}: {error}") from None
        inputs: dict[str, Value] = {}
        for name, source in node.inputs.items():
            for ref in source.refs:
                value = self._values.get(ref)
                if value is not None:
                    inputs[name] = value
                    break
            else:
                if not source.optional:
                    return None
        return inputs

    def _ended(self, index: int, result: Result) -> None:
        self._active.pop(index, None)
        if self._over:
            return
        if isinstance(result, Failure):
            self._fail(result)
            return
        step = self._plan.steps[index]
        name = step.node.name
        for output, value in result.items():
            self._values[Ref(name, output)] = value
        self._left -= 1
        waits = self._waits
        for other in step.next:
            waits[other] -= 1
            if not waits[other]:
                self._due.append(other)
        self._go_on()

    def _fail(self, failure: Failure) -> None:
        self.cancel()
        self._done(failure)


def _found(sources: Mapping[str, Source], values: Mapping[Ref, Value]) -> dict[str, Value]:
    """Those of the outputs that are there."""
    found: dict[str, Value] = {}
    for name, source in sources.items():
        for ref in source.refs:
            value = values.get(ref)
            if value is not None:
                found[name] = value
                break
    return found


class _Fan:
    """A node's runs for all of its items; one of them, when it has no `each`."""

    def __init__(
        self, step: Step, inputs: dict[str, Value], executor: Executor, done: Callable[[Result], None]
    ) -> None:
        """Raises InvalidRequest for lists of different lengths, and for what is no list."""
        self._step = step
        self._done = done
        node = step.node
        self._each = node.each
        rows = _rows(node, inputs) if node.each else [inputs]
        self._results: list[Result | None] = [None] * len(rows)
        self._left = len(rows)
        self._over = False
        self._tasks = [
            _Task(step, own, executor, functools.partial(self._ended, index)) for index, own in enumerate(rows)
        ]

    def begin(self) -> None:
        if not self._left:
            self._finish()
            return
        for task in self._tasks:
            if self._over:  # an earlier one has failed meanwhile
                return
            task.begin()

    def cancel(self) -> None:
        self._over = True
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()

    def _ended(self, index: int, result: Result) -> None:
        if self._over:
            return
        if isinstance(result, Failure) and self._step.node.on_error == "fail":
            self.cancel()
            self._done(_at(self._step.path, index if self._each else None, result))
            return
        self._results[index] = result
        self._left -= 1
        if not self._left:
            self._finish()

    def _finish(self) -> None:
        self._over = True
        self._tasks = []
        node, wanted = self._step.node, self._step.wanted
        failed = [
            {"item": index, "message": result.message}
            for index, result in enumerate(self._results)
            if isinstance(result, Failure)
        ]
        outputs: dict[str, Value]
        if not self._each:
            (result,) = self._results
            outputs = {} if result is None or isinstance(result, Failure) else dict(result)
        else:
            names = [name for name in wanted if name not in (FAILURES, POSITIONS)]
            whole = {
                index: result
                for index, result in enumerate(self._results)
                if result is not None and not isinstance(result, Failure) and all(name in result for name in names)
            }
            try:
                outputs = {name: gathered(result[name] for result in whole.values()) for name in names}
            except InvalidRequest as error:
                self._done(_at(self._step.path, None, Failure(Kind.HANDLER, str(error))))
                return
            if POSITIONS in wanted:
                outputs[POSITIONS] = positions(list(whole))
        if node.on_error == "skip" and FAILURES in wanted:
            outputs[FAILURES] = json_item(failed)
        self._done(outputs)


def _rows(node: Node, inputs: dict[str, Value]) -> list[dict[str, Value]]:
    """The inputs of each item."""
    columns: dict[str, Any] = {}
    for name in node.each:
        if name not in inputs:  # an optional one that is not there
            continue
        try:
            columns[name] = items_of(inputs[name])
        except InvalidRequest as error:
            raise InvalidRequest(f"input {name}, whose items it takes one by one (each): {error}") from None
    lengths = {name: len(items) for name, items in columns.items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        raise InvalidRequest(f"inputs whose items belong together (each) differ in length: {told}")
    count = next(iter(lengths.values()), 0)
    return [{**inputs, **{name: items[index] for name, items in columns.items()}} for index in range(count)]


class _Task:
    """A node's run for one item: its rounds, and the tries of each."""

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

    def begin(self) -> None:
        self._tries += 1
        step = self._step
        if step.plan is None:
            work = Work(step.path, step.node, self._inputs, self._ended)
            self._running = work
            self._limit(work)
            self._executor.start(work)
        else:
            run = Run(step.plan, self._inputs, self._executor, self._ended)
            self._running = run
            self._limit(run)
            run.begin()

    def cancel(self) -> None:
        running, self._running = self._running, None
        self._call_limit_off()
        if running is not None:
            running.cancel()

    def _limit(self, running: Work | Run) -> None:
        seconds = self._step.node.timeout_seconds
        if seconds:
            self._call_off = self._executor.later(seconds, functools.partial(self._timed_out, running))

    def _call_limit_off(self) -> None:
        if self._call_off is not None:
            self._call_off()
            self._call_off = None

    def _timed_out(self, running: Work | Run) -> None:
        if self._running is running:
            running.cancel()
            seconds = self._step.node.timeout_seconds
            self._ended(Failure(Kind.DEADLINE, f"it took longer than {seconds:g} s (timeout)"))

    def _ended(self, result: Result) -> None:
        self._running = None
        self._call_limit_off()
        node = self._step.node
        if isinstance(result, Failure):
            if self._tries <= node.retry and result.kind not in _SAME_AGAIN:
                self.begin()
            else:
                self._done(result)
            return
        repeat = node.repeat
        if repeat is not None and self._rounds < repeat.at_most:
            try:
                again = repeat.while_ in result and is_true(result[repeat.while_])
            except InvalidRequest as error:
                self._done(Failure(Kind.HANDLER, f"its output {repeat.while_} (repeat): {error}"))
                return
            if again:
                self._rounds += 1
                self._tries = 0
                carried = {name: result[output] for name, output in repeat.carry.items() if output in result}
                self._inputs = {**self._inputs, **carried}
                self.begin()
                return
        self._done(result)


def _at(path: str, item: int | None, failure: Failure) -> Failure:
    """The failure with the place where it happened. What failed in a node's own graph says the inner place already."""
    message = failure.message
    if not message.startswith(f"node {path}/"):
        message = f"node {path}: {message}" if item is None else f"node {path}, item {item}: {message}"
    elif item is not None:
        message = f"{message} (item {item} of {path})"
    return msgspec.structs.replace(failure, message=message)
