"""What a sequence's queue does with those who leave, with a clock of the test's own."""

from __future__ import annotations

import pytest

from pdserver.configuration.model import ModelSpec
from pdserver.engine.queue import Call
from pdserver.engine.sequences import SequenceQueue
from pdserver.errors import InvalidRequest, Overloaded
from pdserver.types import Reply, Request, SequenceStep


def queue() -> SequenceQueue:
    return SequenceQueue(
        ModelSpec(
            name="m", version="1", url="", directory="", handler="", manifest={}, model_config={}, min_workers=1,
            max_workers=1, sequence_batching=True, max_sequences=1, sequence_queue_size=2,
        )
    )  # fmt: skip


def call(sequence: bytes = b"") -> Call:
    return Call(Request("m", None, "id", [], headers=[(b"ts_request_sequence_id", sequence)] if sequence else []), 1.0)


def test_who_leaves_gives_the_place_in_the_sequence_to_another() -> None:
    waiting = queue()
    first, second, third = calls = [call(b"a") for _ in range(3)]
    waiting.put(first)
    waiting.put(second)
    with pytest.raises(Overloaded, match="maxSequenceJobQueueSize"):
        waiting.put(third)
    first.cancel()
    waiting.put(third)
    assert waiting.take(1.0) == calls[1:2]
    assert len(waiting) == 1


@pytest.mark.parametrize("name", [b"", b"a"])
def test_a_sequence_ends_with_the_only_one_who_knew_of_it(name: bytes) -> None:
    """No worker has seen anything of it, so there is nothing to go on with."""
    waiting = queue()
    first = call(name)
    waiting.put(first)
    first.cancel()
    waiting.put(call(b"another"))
    assert len(waiting) == 1


def test_a_sequence_that_a_worker_has_seen_goes_on() -> None:
    waiting = queue()
    first, second = call(b"a"), call(b"a")
    waiting.put(first)
    assert waiting.take(1.0) == [first]
    waiting.put(second)
    second.cancel()
    with pytest.raises(Overloaded, match="maxNumSequence"):
        waiting.put(call(b"b"))


def test_a_sequence_whose_requests_mark_its_begin_is_open_until_one_marks_its_end() -> None:
    waiting = queue()

    def step(*, starts: bool = False, ends: bool = False) -> Call:
        return Call(Request("m", None, "id", [], sequence=SequenceStep("a", starts, ends)), 1.0)

    def refuse() -> None:
        with pytest.raises(InvalidRequest, match="must specify the START flag"):
            waiting.put(step())

    refuse()
    for marked in (step(starts=True), step(ends=True)):
        waiting.put(marked)
        assert waiting.take(1.0) == [marked]
        waiting.answered([marked], [Reply(b"", "")])
    refuse()
