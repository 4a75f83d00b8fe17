"""What becomes of runs of graphs, whatever their nodes do: what the definition of graphs says, once, and on time."""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from pdarchiver.pipeline.graph import ANY, FAILURES, Graph, Node, PythonBody, Ref, Repeat, Source
from pdserver.errors import Kind
from pdserver.pipeline.run import Plan, Result, Run, Work
from pdserver.pipeline.values import MOST_ITEMS, TEXT, Item, Value, json_item
from pdserver.types import Failure, Part
from tests.pipeline import graphs
from tests.pipeline.definition import Definition, Meaning, Unfit
from tests.pipeline.virtual import Clock, Failed, Flag, Nature, Plain, Trial, form, read


def fits(message: str, meant: str) -> bool:
    """… stands for anything."""
    return re.fullmatch(".*".join(map(re.escape, meant.split("…"))), message, re.DOTALL) is not None


def agree(plain: Plain, meant: Plain) -> bool:
    if isinstance(plain, Failed) and isinstance(meant, Failed):
        [message] = plain.messages
        return plain.item == meant.item and any(fits(message, each) for each in meant.messages)
    if isinstance(plain, tuple) and isinstance(meant, tuple):
        return len(plain) == len(meant) and all(map(agree, plain, meant))
    return plain == meant


def check(trial: Trial, meaning: Meaning, left_at: float) -> None:
    """It went as it was meant to, until its client left."""
    trial.check_end()
    starts = Counter(trial.starts)
    sure, maybe = (Counter(start for start in some if start.at < left_at) for some in (meaning.starts, meaning.maybe))
    assert sure <= starts <= sure + maybe
    if left_at <= meaning.at:
        assert not trial.results
        return
    assert trial.ended_at == meaning.at
    [result] = trial.results
    if isinstance(result, Failure):
        kind, message = result.kind, result.message
        assert any(kind is failure.kind and fits(message, failure.message) for failure in meaning.failures)
        return
    assert not meaning.failures
    assert set(result) == set(meaning.outputs)
    for name, value in result.items():
        assert agree(read(value), meaning.outputs[name]), name


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.integers(0, 2**32),
    st.integers(1, 8),
    st.integers(0, 3),
    st.lists(st.tuples(st.floats(0, 3), st.sampled_from(Flag), st.none() | st.floats(0, 9)), min_size=1, max_size=3),
)
def test_a_run_is_what_the_graph_means(
    seed: int, most: int, depth: int, requests: list[tuple[float, Flag, float | None]]
) -> None:
    """Several requests at the same time, some of whose clients leave before the end. Each gets its own answer, once."""
    graph = graphs.graph(random.Random(seed), most, depth)
    plan, nature, clock = Plan(graph), Nature(seed), Clock()
    trials: list[tuple[Trial, Meaning, float]] = []
    for number, (at, flag, stays) in enumerate(requests):
        inputs = graphs.inputs_of(nature, number, flag)
        try:
            meaning = Definition(nature).graph(graph, "", inputs, at)
        except Unfit:
            assume(False)
        dice = random.Random(number)
        trial = Trial(plan, {name: form(plain, dice) for name, plain in inputs.items()}, nature, clock)
        left_at = math.inf if stays is None and meaning.at < math.inf else at + (stays or 9.0) + 0.001
        clock.later(at, trial.run.begin)
        if left_at < math.inf:
            clock.later(left_at, trial.cancel)
        trials.append((trial, meaning, left_at))
    clock.pass_all()
    for trial, meaning, left_at in trials:
        check(trial, meaning, left_at)


def node(name: str, source: str, **how: Any) -> Node:
    """One that takes x, and gives y and more."""
    ref = Ref(*source.split(".")) if "." in source else Ref("", source)
    return Node(name, PythonBody("nodes.py"), {"x": Source((ref,))}, **how)


def plan_of(*nodes: Node, output: str = "y") -> Plan:
    """The last one gives the output."""
    return Plan(Graph({"x": ANY}, {each.name: each for each in nodes}, {"y": Source((Ref(nodes[-1].name, output),))}))


class ByHand:
    """An executor that does what the test says. What a node is asked is in `works`, by its path."""

    def __init__(self, plan: Plan, value: Value, on_start: Callable[[Work], None] = lambda work: None) -> None:
        self.works: dict[str, list[Work]] = {}
        self.cancelled: list[str] = []
        self.results: list[Result] = []
        self.count = 0
        self.on_start = on_start
        self.on_cancel: Callable[[], None] = lambda: None
        self.run = Run(plan, {"x": value}, self, self.results.append)

    def start(self, work: Work) -> None:
        self.count += 1
        self.works.setdefault(work.path, []).append(work)
        self.on_start(work)
        if not work.over:
            work.on_cancel = lambda: self._cancelled(work)

    def _cancelled(self, work: Work) -> None:
        self.cancelled.append(work.path)
        self.on_cancel()

    def later(self, seconds: float, callback: Callable[[], None]) -> Callable[[], object]:
        raise AssertionError


ONE = json_item(1)
BROKEN = Failure(Kind.HANDLER, "it is broken")


def test_a_thousand_nodes_that_end_at_once() -> None:
    """In a row, as rounds, as tries, and as items: none of them goes deeper and deeper."""
    row = [node("n0", "x"), *(node(f"n{index}", f"n{index - 1}.y") for index in range(1, 1000))]
    at_once = [
        (plan_of(*row), 1000),
        (plan_of(node("n", "x", repeat=Repeat("y", 5000, {"x": "y"}))), 5000),
        (plan_of(node("n", "x", retry=5000, on_error="skip"), output=FAILURES), 5001),
        (plan_of(node("n", "x", each=("x",))), MOST_ITEMS),
    ]
    for plan, count in at_once:
        fails = plan.steps[0].node.retry > 0
        by_hand = ByHand(
            plan,
            [ONE] * count if plan.steps[0].node.each else ONE,
            lambda work, fails=fails: work.settle(BROKEN if fails else {"y": ONE}),  # type: ignore[misc]
        )
        by_hand.run.begin()
        assert by_hand.count == count
        assert len(by_hand.results) == 1


def test_a_work_that_ends_while_another_starts() -> None:
    """Its failure ends the run: nothing else starts, and what was starting is over before it can be cancelled."""
    plan = plan_of(node("first", "x"), node("second", "x"), node("third", "x"), node("last", "third.y"))

    def on_start(work: Work) -> None:
        if work.path == "second":
            by_hand.works["first"][0].settle(BROKEN)
            assert work.over
            work.settle({"y": ONE})

    by_hand = ByHand(plan, ONE, on_start)
    by_hand.run.begin()
    assert by_hand.results == [Failure(Kind.HANDLER, "node first: it is broken")]
    assert list(by_hand.works) == ["first", "second"]


def test_an_item_that_fails_at_once_lets_no_other_begin() -> None:
    by_hand = ByHand(plan_of(node("n", "x", each=("x",))), [ONE] * 5)
    by_hand.on_start = lambda work: work.settle(BROKEN) if by_hand.count == 3 else None
    by_hand.run.begin()
    assert by_hand.results == [Failure(Kind.HANDLER, "node n, item 2: it is broken")]
    assert by_hand.count == 3
    assert by_hand.cancelled == ["n", "n"]


@pytest.mark.parametrize("how", [{}, {"retry": 3}, {"each": ("x",)}, {"repeat": Repeat("y", 3)}])
@pytest.mark.parametrize("result", [{"y": ONE}, BROKEN])
def test_a_client_that_leaves_while_a_work_starts(how: dict[str, Any], result: Result) -> None:
    by_hand = ByHand(plan_of(node("n", "x", **how), node("last", "n.y")), [ONE, ONE])

    def on_start(work: Work) -> None:
        if how.get("retry") and by_hand.count == 1:
            work.settle(BROKEN)  # the next try is due, and does not come
        by_hand.run.cancel()
        work.settle(result)

    by_hand.on_start = on_start
    by_hand.run.begin()
    by_hand.run.begin()
    assert (by_hand.count, by_hand.results) == (1, [])


@pytest.mark.parametrize(
    ("kind", "count"),
    [(Kind.HANDLER, 4), (Kind.OVERLOADED, 4), (Kind.DEADLINE, 4), (Kind.INVALID, 1), (Kind.TOO_LARGE, 1),
     (Kind.WORKER_DIED, 1)],
)  # fmt: skip
def test_what_fails_by_its_input_is_not_tried_again(kind: Kind, count: int) -> None:
    by_hand = ByHand(plan_of(node("n", "x", retry=3)), ONE, lambda work: work.settle(Failure(kind, "no")))
    by_hand.run.begin()
    assert (by_hand.count, by_hand.results) == (count, [Failure(kind, "node n: no")])


def test_each_round_has_all_its_tries() -> None:
    by_hand = ByHand(plan_of(node("n", "x", retry=1, repeat=Repeat("y", 3))), ONE)
    by_hand.on_start = lambda work: work.settle(BROKEN if by_hand.count % 2 else {"y": ONE})
    by_hand.run.begin()
    assert (by_hand.count, by_hand.results) == (6, [{"y": ONE}])


def test_a_node_that_is_skipped_says_why() -> None:
    by_hand = ByHand(plan_of(node("n", "x", on_error="skip"), output=FAILURES), ONE, lambda work: work.settle(BROKEN))
    by_hand.run.begin()
    [result] = by_hand.results
    assert not isinstance(result, Failure)
    assert read(result["y"]) == (Failed(0, frozenset(["it is broken"])),)


@pytest.mark.parametrize("items", [0, 3])
def test_works_that_end_because_another_is_cancelled(items: int) -> None:
    """As when the cancelled ones make room in a queue. It changes nothing: the run has failed."""
    each = ("x",) if items else ()
    plan = plan_of(node("a", "x"), node("b", "x", each=each), node("c", "x", each=each), node("d", "c.y"))
    by_hand = ByHand(plan, [ONE] * items)

    def on_cancel() -> None:
        for work in by_hand.works["b"] + by_hand.works["c"]:
            work.settle({"y": ONE})

    by_hand.on_cancel = on_cancel
    by_hand.run.begin()
    by_hand.works["a"][0].settle(BROKEN)
    assert by_hand.results == [Failure(Kind.HANDLER, "node a: it is broken")]
    assert by_hand.cancelled == ["b"]
    assert "d" not in by_hand.works
    assert all(work.over for works in by_hand.works.values() for work in works)


def test_where_a_failure_happened() -> None:
    inner = Graph({"x": ANY}, {"word": node("word", "x")}, {"y": Source((Ref("word", "y"),))})
    read = Node("read", inner, {"x": Source((Ref("", "x"),))}, each=("x",))
    page = Node("page", Graph({"x": ANY}, {"read": read}, {"y": Source((Ref("read", "y"),))}), read.inputs)
    by_hand = ByHand(plan_of(page), [ONE] * 3)
    by_hand.run.begin()
    by_hand.works["page/read/word"][1].settle(Failure(Kind.OVERLOADED, "it is full", 429))
    assert by_hand.results == [Failure(Kind.OVERLOADED, "node page/read/word: it is full (item 1 of page/read)", 429)]


@pytest.mark.parametrize(
    ("source", "kind", "message"),
    [("x", Kind.INVALID, "node last: input x, .* one piece"), ("n.y", Kind.HANDLER, "node last: input x, .* no array")],
)
def test_who_is_to_blame_for_what_is_no_list(source: str, kind: Kind, message: str) -> None:
    by_hand = ByHand(plan_of(node("n", "x"), node("last", source, each=("x",))), Item(Part("", TEXT, b"a")))
    by_hand.on_start = lambda work: work.settle({"y": ONE})
    by_hand.run.begin()
    [failure] = by_hand.results
    assert isinstance(failure, Failure)
    assert failure.kind is kind
    assert re.match(message, failure.message)
