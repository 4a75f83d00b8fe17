"""Ops of web services: what they keep of a request, and how they jump. Without a server, since these take no time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pdserver.handlers.pipeline import flow, parcels
from pdserver.handlers.pipeline.failures import CustomExceptionCode, OpFailed
from pdserver.handlers.pipeline.flow import Flow, Task
from pdserver.handlers.pipeline.op import Op, RequestOp
from pdserver.handlers.pipeline.run import Stage


class Doubles:
    """A model: rows in, rows out. It remembers how many each run had."""

    keeps_rows = True

    def __init__(self) -> None:
        self.runs: list[int] = []

    def predict(self, feed: Any, fetch: Any, batch: bool, log_id: int) -> Any:
        self.runs.append(len(feed["x"]))
        return {"y": feed["x"] * 2}


def answers(ops: list[Op], texts: list[str], batch_size: int = 8) -> list[Any]:
    """What a service of these Ops answers to requests of one batch: the answer, or the failure's number and text."""
    tasks = [Task(number, 0) for number in range(len(texts))]
    Flow([Stage(op, batch_size) for op in ops]).run(tasks, [{"text": text} for text in texts])
    return [(task.failure.number, str(task.failure)) if task.failure else task.answer for task in tasks]


class Keeps(Op):
    """Keeps everything in `self`, as the scripts of PaddleOCR and PaddleClas do."""

    def init_op(self) -> None:
        self.seen: list[str] = []
        self.boxes = 0

    def preprocess(self, input_dicts: Any, data_id: int = 0, log_id: int = 0) -> Any:
        ((_, given),) = input_dicts.items()
        self.raw = given["text"]
        self.boxes += len(self.raw)
        self.seen.append(self.raw)
        return {"x": np.full((1, 2), len(self.raw))}, False, None, ""

    def postprocess(self, input_data: Any, fetch_data: Any, data_id: int = 0, log_id: int = 0) -> Any:
        assert len(self.raw) == self.boxes == fetch_data["y"][0, 0] / 2
        return {"text": f"{self.raw} {self.boxes}"}, None, ""


def kept(kind: type[Keeps]) -> tuple[list[Any], Keeps, Doubles]:
    op = kind("keeps", [RequestOp()])
    model = Doubles()
    op.client = model  # type: ignore[assignment]
    op.init_op()
    return answers([op], ["a", "bcd", "", "ef"], batch_size=3), op, model


def test_what_hooks_keep_in_self_is_each_requests_own() -> None:
    """Three requests are prepared before the first one is finished, and share a run. What `init_op` made is shared."""
    found, op, model = kept(Keeps)
    assert found == [{"text": text} for text in ("a 1", "bcd 3", " 0", "ef 2")]
    assert model.runs == [3, 1]
    assert op.seen == ["a", "bcd", "", "ef"]
    assert (op.boxes, hasattr(op, "raw")) == (0, False), "the Op itself is as init_op left it"


class Processes(Keeps):
    def process(self, feed_batch: Any, typical_logid: int = 0) -> Any:
        assert len(self.raw) == feed_batch[0]["x"][0, 0]
        return super().process(feed_batch, typical_logid)


def test_a_process_of_ones_own_finds_what_preprocess_has_kept() -> None:
    found, _, model = kept(Processes)
    assert found == [{"text": text} for text in ("a 1", "bcd 3", " 0", "ef 2")]
    assert model.runs == [1, 1, 1, 1], "several requests have no one self"


class Adds(Op):
    """Writes its name behind the text, and jumps until that is long enough."""

    until = 0

    def preprocess(self, input_dicts: Any, data_id: int = 0, log_id: int = 0) -> Any:
        ((self.giver, given),) = input_dicts.items()
        return {"text": given["text"] + self.name}, False, None, ""

    def check_jumping(self, input_data: Any) -> bool:
        ((data_id, channel),) = input_data.items()
        assert channel.id == data_id
        assert self.giver, "of this request"
        return len(channel.parse()["text"]) < self.until


def chain(until: int = 0) -> tuple[Op, Adds, Adds, Adds]:
    """a → b → c, and c may jump."""
    reader = RequestOp()
    a = Adds("a", [reader])
    b = Adds("b", [a])
    c = Adds("c", [b])
    c.until = until
    return reader, a, b, c


def test_a_loop_goes_back_as_often_as_each_request_needs() -> None:
    """Jumping to an Op is going on behind it. Requests of a batch end their loops on their own."""
    _, a, b, c = chain(until=9)
    c.set_jump_to_ops([a])
    assert [found["text"] for found in answers([a, b, c], ["", "12345", "123456789"])] == [
        *("abcbcbcbc", "12345abcbc", "123456789abc")
    ]
    c.set_jump_to_ops([b])
    assert answers([a, b, c], [""]) == [{"text": "abccccccc"}]


def test_a_jump_to_the_request_begins_anew_and_one_forward_leaves_out() -> None:
    reader, a, b, c = chain(until=5)
    c.set_jump_to_ops(reader)
    assert answers([a, b, c], [""]) == [{"text": "abcabc"}]
    a.until = 3
    a.set_jump_to_ops([b])
    c.set_jump_to_ops([])
    assert answers([a, b, c], ["", "12345"]) == [{"text": "ac"}, {"text": "12345abc"}]
    a.set_jump_to_ops([c])
    assert answers([a, b, c], [""]) == [{"text": "a"}], "behind the last one is the answer"


def test_a_loop_without_an_end_fails_its_request(monkeypatch: Any) -> None:
    monkeypatch.setattr(flow, "MOST_ROUNDS", 5)
    _, a, b, c = chain()
    c.set_jump_to_ops([a])
    monkeypatch.setattr(c, "check_jumping", lambda input_data: True)
    endless = (4000, "[c] check_jumping: the request has passed b 5 times: end the loop")
    assert answers([a, b, c], ["x"]) == [endless]


class Joins(Op):
    def preprocess(self, input_dicts: Any, data_id: int = 0, log_id: int = 0) -> Any:
        return {"text": "+".join(sorted(given["text"] for given in input_dicts.values()))}, False, None, ""


def test_an_op_that_waits_for_what_was_jumped_over_fails_the_request() -> None:
    _, a, b, c = chain()
    joined = Joins("joined", [b, c])
    assert answers([a, b, c, joined], ["1"]) == [{"text": "1ab+1abc"}]
    a.until = 9
    a.set_jump_to_ops([b])
    assert answers([a, b, c, joined], ["123456789", "1"]) == [
        {"text": "123456789ab+123456789abc"},
        {"text": "1a+1ac"},
    ], "what jumps over b stands for what b gives"
    b.until = 9
    b.set_jump_to_ops([c])
    a.set_jump_to_ops([])
    assert answers([a, b, c, joined], ["1"]) == [
        (4000, "no Op is left to answer: what joined waits for was jumped over")
    ]


def test_what_passes_between_processes_arrives_as_it_was() -> None:
    given = {
        "boxes": np.arange(8, dtype=np.int32).reshape(2, 4),
        "score": np.float32(0.25),
        "flat": np.array(3.5),
        "none": np.zeros((0, 4), np.float64),
        "image": [b"\x89PNG", bytearray(b"raw")],
        "texts": np.array([["a", "字"]]),
        "mixed": np.array([None, "x", [1, 2]], dtype=object),
        "nested": {"tuple": [1, ("tuple", None, True)], 5: {"dict": []}, "list": ["list", "array", 0]},
        "odd": [float("inf"), 2**80, "\ud800", -0.0],
        "code": CustomExceptionCode.OK.name,
    }
    parcel = parcels.packed(given, "[det]")
    arrays = [array.copy() for array in parcel.arrays]
    for array in arrays:
        array.flags.writeable = False
    found = parcels.opened(parcel.said, arrays, [bytearray(piece) for piece in parcel.pieces])
    found["boxes"][0, 0] = 9  # a hook may
    given["boxes"][0, 0] = 9
    given["image"] = [b"\x89PNG", b"raw"]
    assert found.keys() == given.keys()
    for name, value in given.items():
        np.testing.assert_equal(found[name], value)
        assert type(found[name]) is type(value)
        assert getattr(found[name], "dtype", None) == getattr(value, "dtype", None)


@pytest.mark.parametrize("value", [object(), {1, 2}, np.array([1j]), [Task(1, 2)], {"x": np.datetime64("2020")}])
def test_what_cannot_pass_is_named(value: Any) -> None:
    with pytest.raises(OpFailed) as refused:
        parcels.packed({"fine": 1, "boxes": value}, "[det] postprocess")
    assert refused.value.number == 7000
    assert str(refused.value).startswith('[det] postprocess: "boxes" is ')
    assert "give all Ops the same concurrency" in str(refused.value)


def test_a_value_that_holds_itself_is_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(OpFailed, match='"boxes" goes more than 64 levels deep'):
        parcels.packed({"boxes": endless}, "[det]")
