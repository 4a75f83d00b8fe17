"""What becomes of runs of graphs, whatever their nodes do: what the definition of graphs says, once, and on time."""

from __future__ import annotations

import math
import random
import re
from collections import Counter

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from pdserver.pipeline.run import Plan
from pdserver.types import Failure
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


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
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
