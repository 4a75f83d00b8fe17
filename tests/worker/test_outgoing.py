"""Whatever a handler has put into it, there is a frame; and only what can't be sent is not in it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from pdserver.errors import HandlerFailed, Kind, LoadFailed
from pdserver.types import Answered, Failure, Measured, NodeRun, Outcome, Reply, Tensor
from pdserver.worker import outgoing, wire
from pdserver.worker.messages import Chunk, FromWorker, NotLoaded

HALF = "\ud800"
GOOD: list[Outcome] = [Reply(b"one", "text/plain"), Failure(Kind.INVALID, "two", 400)]
MEASURED = Measured("Good", 1.0, "Count")


class Text(str):
    __slots__ = ()


def sent(frame: bytearray) -> Any:
    return wire.decoder(FromWorker).decode(memoryview(frame)[wire.HEADER.size :])


@pytest.mark.parametrize(
    "bad",
    [
        Failure(Kind.HANDLER, HALF),
        Failure(Kind.HANDLER, "x", 1 << 70),
        Failure(Kind.HANDLER, Text("x")),
        Reply(b"", HALF),
        Reply(b"", "text/plain", 200, HALF),
        Reply(b"", "text/plain", 1 << 64),
        Reply(b"", "text/plain", headers=[("x-a", HALF)]),
        Reply(b"", "text/plain", headers=[(HALF, "a")]),
        Reply(b"", Text("text/plain")),
        Reply(b"", "", tensors=[Tensor(HALF, "float32", (1,), b"1234")]),
        Reply(b"", "", tensors=[Tensor("x", "float32", (-1 << 80,), b"1234")]),
        Reply(b"", "", parameters={"x": 1 << 64}),
        Reply(object(), ""),  # type: ignore[arg-type]
    ],
)
def test_an_outcome_that_cannot_be_sent_fails_alone(bad: Outcome) -> None:
    answers = sent(outgoing.answers(Answered(7, [GOOD[0], bad, GOOD[1]], 0.5, [MEASURED]), 0))
    assert (answers.id, answers.seconds, answers.measured) == (7, 0.5, [MEASURED])
    assert [answers.outcomes[0], answers.outcomes[2]] == GOOD
    assert isinstance(answers.outcomes[1], Failure)
    assert answers.outcomes[1].kind is Kind.HANDLER


def test_a_failure_keeps_its_words() -> None:
    answers = sent(outgoing.answers(Answered(7, [Failure(Kind.HANDLER, f"no {HALF} here")], 0.5), 0))
    assert answers.outcomes == [Failure(Kind.HANDLER, "no \\ud800 here")]


@pytest.mark.parametrize("bad", [Measured(HALF, 1.0, ""), Measured("x", 1.0, "", dimensions={"a": HALF})])
def test_a_measurement_that_cannot_be_sent_is_left_out(bad: Measured, capfd: pytest.CaptureFixture[str]) -> None:
    answers = sent(outgoing.answers(Answered(7, [*GOOD], 0.5, [bad, MEASURED]), 0))
    assert (answers.outcomes, answers.measured) == (GOOD, [MEASURED])
    assert "metrics left out" in capfd.readouterr().err


def test_a_piece_that_cannot_be_sent_is_the_handlers_error() -> None:
    with pytest.raises(HandlerFailed, match="the piece cannot be sent: "):
        outgoing.chunk(Chunk(1, 0, Reply(b"", HALF)))


@pytest.mark.parametrize("error", [LoadFailed(HALF), ValueError(HALF), SystemExit(), LoadFailed("x" * 10_000_000)])
def test_there_are_always_words_for_why_it_was_not_loaded(error: BaseException) -> None:
    told = sent(outgoing.not_loaded(error))
    assert isinstance(told, NotLoaded)
    assert 0 < len(told.message) < 20_000


def test_a_node_that_failed_is_told_of_whatever_it_said() -> None:
    failures = {0: Failure(Kind.HANDLER, f"no {HALF} here", 1 << 70), 2: Failure(Kind.INVALID, "two")}
    run = NodeRun("read", [0, 0, 1], 3, 0.0, 0.5, 0.0, 0.0, 1, failures)
    answers = sent(outgoing.answers(Answered(7, [*GOOD], 0.5, nodes=[run]), 0))
    told = {0: Failure(Kind.HANDLER, "no \\ud800 here"), 2: Failure(Kind.INVALID, "two")}
    assert answers.nodes == [msgspec.structs.replace(run, failures=told)]
