"""Typed requests: tensors in, tensors out, whatever the handler is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import orjson
import pytest
from numpy.typing import NDArray

from pdserver.errors import LoadFailed
from pdserver.formats.elements import packed
from pdserver.handlers.runtime.service import Service
from pdserver.tensors import array
from pdserver.types import Outcome, Output, Part, Reply, Request, Tensor
from tests.handlers.conftest import Load, paddle
from tests.handlers.requests import json, refusal, request, tensor

ROWS = np.random.default_rng(3).normal(size=(6, 13)).astype(np.float32)
SEVEN = (Path(__file__).parents[2] / "examples/digits/seven.png").read_bytes()


def typed(*inputs: Part | Tensor, outputs: tuple[Output, ...] = ()) -> Request:
    return msgspec.structs.replace(request(*inputs), typed=True, outputs=outputs)


def texts(name: str, *items: bytes) -> Tensor:
    return Tensor(name, "bytes", (len(items), 1), packed(items))


def values(outcome: Outcome) -> dict[str, NDArray[Any]]:
    assert isinstance(outcome, Reply), outcome
    assert not outcome.body
    return {given.name: array(given) for given in outcome.tensors}


def linear(models: Path, rows: NDArray[Any]) -> NDArray[Any]:
    result: NDArray[Any] = paddle.jit.load(str(models / "pir/linear"))(paddle.to_tensor(rows)).numpy()
    return result


def test_the_rows_of_a_batch_go_back_to_who_gave_them(load: Load, models: Path) -> None:
    service = load("pir/linear.json", config={"inputs": {"x": "features"}, "outputs": {"fetch_name_0": "price"}})
    pieces = (ROWS[:3], ROWS[3:4], ROWS[4:])
    answers = [values(outcome) for outcome in service.run([typed(tensor("features", rows)) for rows in pieces])]
    for got, rows in zip(answers, pieces, strict=True):
        assert list(got) == ["price"]
        assert got["price"].dtype == np.float32
        np.testing.assert_allclose(got["price"], linear(models, rows), rtol=1e-5)
    assert service.times.executions == 1


def test_typed_and_opaque_requests_of_one_batch(load: Load, models: Path) -> None:
    plain, with_types = load("pir/linear.json").run([json(ROWS[0]), typed(tensor("x", ROWS[:1]))])
    assert isinstance(plain, Reply)
    assert orjson.loads(plain.body)["fetch_name_0"] == pytest.approx(linear(models, ROWS[:1])[0].tolist(), rel=1e-5)
    np.testing.assert_allclose(values(with_types)["fetch_name_0"], linear(models, ROWS[:1]), rtol=1e-5)


def test_only_what_is_asked_for_comes_back_in_that_order(load: Load) -> None:
    service = load("pir/words.json", config={"outputs": {"fetch_name_0": "words", "fetch_name_1": "no"}})
    given = [
        tensor("ids", np.array([[1, 2, 3]])),
        tensor("flag", np.array([True])),
        tensor("weight", np.array([2.0], np.float32)),
    ]
    everything, one, both = service.run(
        [
            typed(*given),
            typed(*given, outputs=(Output("no"),)),
            typed(*given, outputs=(Output("no"), Output("words"))),
        ]
    )
    assert list(values(everything)) == ["words", "no"]
    assert values(one)["no"].tolist() == [False]
    assert list(values(both)) == ["no", "words"]


def test_requests_of_different_shapes_never_share_a_run(load: Load) -> None:
    service = load("pir/words.json")

    def ids(*numbers: int) -> Request:
        return typed(
            tensor("ids", np.array([numbers])),
            tensor("flag", np.array([True])),
            tensor("weight", np.array([1.0], np.float32)),
        )

    short, long, other = service.run([ids(1, 2), ids(1, 2, 3), ids(3, 4)])
    assert service.times.executions == 2
    assert [values(outcome)["fetch_name_0"].shape[1] for outcome in (short, long, other)] == [2, 3, 2]
    np.testing.assert_array_equal(values(short)["fetch_name_0"], values(service.run([ids(1, 2)])[0])["fetch_name_0"])


def test_the_likeliest_classes_with_their_labels(load: Load) -> None:
    labels = orjson.dumps({"0": "zero", "1": "one"})
    service = load("pir/linear.json", files={"index_to_name.json": labels})
    (outcome,) = service.run([typed(tensor("x", ROWS[:2]), outputs=(Output("fetch_name_0", classes=3),))])
    got = values(outcome)["fetch_name_0"]
    assert got.shape == (2, 1)
    value, index, label = got[0, 0].decode().split(":")
    assert (index, label) == ("0", "zero")
    plain = values(service.run([typed(tensor("x", ROWS[:1]))])[0])["fetch_name_0"]
    assert float(value) == pytest.approx(float(plain[0, 0]), abs=1e-5)


def test_classes_come_in_descending_order(load: Load, models: Path) -> None:
    with np.load(models / "pir/digits.npz") as known:
        images, scores = known["images"], known["scores"]
    (outcome,) = load("pir/digits.json").run(
        [typed(tensor("image", images), outputs=(Output("fetch_name_0", classes=4),))]
    )
    got = [[int(text.decode().split(":")[1]) for text in row] for row in values(outcome)["fetch_name_0"]]
    assert got == np.argsort(-scores, axis=1)[:, :4].tolist()


def test_images_in_probabilities_out(load: Load) -> None:
    service = load(
        "pir/digits.json", "image_classifier", config={"image": {"color": "gray", "resize": [8, 8], "crop": None}}
    )
    good, twice, bad = service.run(
        [typed(texts("image", SEVEN)), typed(texts("image", SEVEN, SEVEN)), typed(texts("image", b"no image"))]
    )
    chances = values(good)["probabilities"]
    assert chances.shape == (1, 10)
    np.testing.assert_array_equal(values(twice)["probabilities"], np.concatenate([chances, chances]))
    assert "image" in refusal(bad)


def test_texts_in_probabilities_out(load: Load) -> None:
    words = "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "bad", "food"]).encode()
    service = load("pir/sentiment.json", "text_classifier", files={"vocab.txt": words})
    one, other = service.run([typed(texts("text", b"good food", b"bad")), typed(texts("text", b"\xff"))])
    assert values(one)["probabilities"].shape == (2, 3)
    assert "UTF-8" in refusal(other)


def test_any_other_handler_is_given_each_element_as_a_request(load: Load) -> None:
    source = (
        "def handle(data, context):\n"
        "    if data is None: return\n"
        "    return [ValueError('bad one') if row['body'] == b'bad' else {'got': str(row['body'])} for row in data]\n"
    )
    service = load(None, source=source)
    two, bad, asked = service.run(
        [typed(texts("body", b"a", b'{"k": 1}')), typed(texts("body", b"a", b"bad")), typed(texts("body", b""))]
    )
    assert [orjson.loads(text)["got"] for text in values(two)["answer"].ravel()] == [
        "bytearray(b'a')",
        "bytearray(b'{\"k\": 1}')",
    ]
    assert refusal(bad) == "handler: ValueError: bad one"
    assert values(asked)["answer"].shape == (1, 1)


def test_a_handler_that_changes_a_step_is_opaque_and_one_that_takes_tensors_is_not(load: Load) -> None:
    changed = (
        "from pdserver.handlers.base import BaseHandler\n"
        "class Changed(BaseHandler):\n"
        "    def postprocess(self, outputs):\n"
        "        return ['changed'] * len(next(iter(outputs.values())))\n"
    )
    (outcome,) = load("pir/linear.json", source=changed).run([typed(texts("body", orjson.dumps(ROWS[0].tolist())))])
    assert values(outcome)["answer"].tolist() == [[b"changed"]]
    double = changed + "    def handle_tensors(self, inputs):\n        return {'twice': 2 * inputs['x']}\n"
    (outcome,) = load("pir/linear.json", source=double).run([typed(tensor("x", ROWS[:2]))])
    np.testing.assert_array_equal(values(outcome)["twice"], 2 * ROWS[:2])


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ("{'y': inputs['x'][:1]}", "expected 2 rows of each output; the model's outputs are y [1, 13]"),
        ("{'y': np.array(1.0)}", "the first axis of every output must be the batch"),
        ("{'y': np.array([{}, {}], object)}", "expected bytes or text as elements, got dict"),
        ("{'y': np.zeros(2, np.complex64)}", "a tensor cannot hold complex64"),
        ("1 / 0", "ZeroDivisionError"),
    ],
)
def test_what_a_handler_gets_wrong_is_said(load: Load, returned: str, message: str) -> None:
    source = (
        "import numpy as np\nfrom pdserver.handlers.base import BaseHandler\nclass Wrong(BaseHandler):\n"
        f"    def handle_tensors(self, inputs):\n        return {returned}\n"
    )
    (outcome,) = load("pir/linear.json", source=source).run([typed(tensor("x", ROWS[:2]))])
    assert message in refusal(outcome)


@pytest.mark.parametrize(
    "interface",
    [
        'Interface([Port("\\ud800", "float32", (1,))], [], batched=True)',
        'Interface([Port(5, "float32", (1,))], [], batched=True)',
        'Interface([Port("x", "float32", None)], [], batched=True)',
        '{"inputs": []}',
        "None",
    ],
)
def test_an_interface_that_is_none_is_a_reason_not_to_load(load: Load, interface: str) -> None:
    source = (
        "from pdserver.handlers.base import BaseHandler\nfrom pdserver.types import Interface, Port\n"
        f"class Odd(BaseHandler):\n    def interface(self):\n        return {interface}\n"
    )
    with pytest.raises(LoadFailed, match="interface is not valid"):
        load("pir/linear.json", source=source)


def test_data_that_do_not_fit_fail_alone(load: Load) -> None:
    short = Tensor("x", "float32", (2, 13), b"1234")
    good, bad, part = load("pir/linear.json").run(
        [typed(tensor("x", ROWS[:1])), typed(short), typed(Part("x", "", b""))]
    )
    assert len(values(good)) == 1
    assert "4 bytes are not float32 of shape [2, 13]" in refusal(bad)
    assert '"x" is not a tensor' in refusal(part)


def test_a_streaming_handler_sends_tensors_piece_by_piece(load: Load) -> None:
    source = (
        "import numpy as np\nfrom pdserver.handlers.base import BaseHandler\nclass Counting(BaseHandler):\n"
        "    def handle_tensors(self, inputs):\n"
        "        for step in range(2):\n"
        "            self.context.send_intermediate([{'step': np.array([step])}])\n"
        "        return {'step': np.array([2])}\n"
    )
    sent: list[tuple[int, Reply]] = []
    (last,) = load("pir/linear.json", source=source).run(
        [typed(tensor("x", ROWS[:1]))], lambda idx, piece: sent.append((idx, piece))
    )
    assert [(idx, values(piece)["step"].tolist()) for idx, piece in sent] == [(0, [0]), (0, [1])]
    assert values(last)["step"].tolist() == [2]


SENTIMENT = ("input_ids", "token_type_ids", "attention_mask")


def sentence(*ids: int) -> Request:
    held = (np.array([ids]), np.zeros((1, len(ids)), np.int64), np.ones((1, len(ids)), np.int64))
    return typed(*(tensor(name, values) for name, values in zip(SENTIMENT, held, strict=True)))


@pytest.mark.parametrize("padding", [{"value": 0}, {"value": {"input_ids": 3}, "buckets": [8, 16]}, {"multiple": 8}])
def test_padding_lets_different_lengths_share_a_run(load: Load, padding: dict[str, Any]) -> None:
    sentences = [sentence(1, 2), sentence(3, 4, 5, 6, 7), sentence(8)]
    alone = load("pir/sentiment.json")
    service = load("pir/sentiment.json", config={"padding": padding})
    together = service.run(sentences)
    assert service.times.executions == 1
    for outcome, given in zip(together, sentences, strict=True):
        (expected,) = alone.run([given])
        np.testing.assert_allclose(values(outcome)["fetch_name_0"], values(expected)["fetch_name_0"], rtol=1e-4)


def test_outputs_are_cut_back_to_what_was_given(load: Load) -> None:
    service = load("pir/words.json", config={"padding": {"value": 0}})

    def ids(*numbers: int) -> Request:
        return typed(
            tensor("ids", np.array([numbers])),
            tensor("flag", np.array([True])),
            tensor("weight", np.array([1.0], np.float32)),
        )

    short, long = service.run([ids(1, 2), ids(1, 2, 3, 4)])
    assert service.times.executions == 1
    assert [values(outcome)["fetch_name_0"].shape for outcome in (short, long)] == [(1, 2, 4), (1, 4, 4)]
    np.testing.assert_array_equal(values(short)["fetch_name_0"], values(long)["fetch_name_0"][:, :2])


@pytest.mark.parametrize(
    ("model", "padding", "message"),
    [
        ("linear", {}, "padding: no input of the model has an axis of any length (-1) besides the batch"),
        ("one-boxes", {}, "padding: requests of this model do not share a run"),
        ("sentiment", {"value": {"input_idz": 1}}, "no input input_idz; did you mean input_ids?"),
        ("sentiment", {"bucket": [4]}, "padding.bucket: unknown setting; did you mean buckets?"),
        ("sentiment", {"multiple": 0}, "padding.multiple: 0"),
    ],
)
def test_wrong_padding_is_refused_when_the_model_is_loaded(load: Load, model: str, padding: Any, message: str) -> None:
    with pytest.raises(LoadFailed) as caught:
        load(f"pir/{model}.json", config={"padding": padding})
    assert message in str(caught.value)


def test_padding_where_possible_leaves_other_models_as_they_are(load: Load, models: Path) -> None:
    service: Service = load("pir/linear.json", config={"padding": {"where_possible": True}})
    (outcome,) = service.run([typed(tensor("x", ROWS[:3]))])
    np.testing.assert_allclose(values(outcome)["fetch_name_0"], linear(models, ROWS[:3]), rtol=1e-5)


def test_a_model_of_fixed_batch_size_takes_any_number_of_rows(load: Load, models: Path) -> None:
    service: Service = load("pir/pairs.json")
    (outcome,) = service.run([typed(tensor("x", ROWS[:3]))])
    np.testing.assert_allclose(values(outcome)["fetch_name_0"], linear(models, ROWS[:3]), rtol=1e-5)


SPEAKS = """
import numpy as np
from pdserver.types import Interface, Port

class Speaks:
    def initialize(self, context): pass
    def handle(self, data, context): return data
    def interface(self):
        return Interface([Port("x", "int64", (-1, 1))], [Port("y", "bytes", (-1, 1))], batched=True)
    def handle_tensors(self, inputs):
        return {"y": np.array([["\\ud800" if x else "good"] for (x,) in inputs["x"].tolist()], object)}
"""


def test_a_text_with_half_of_a_surrogate_pair_fails_alone_and_at_once(load: Load) -> None:
    service = load(None, source=SPEAKS)
    good, bad = service.run([typed(tensor("x", np.array([[number]]))) for number in (0, 1)])
    assert values(good)["y"].tolist() == [[b"good"]]
    assert refusal(bad).startswith('handler: output "y": expected text that UTF-8 can hold: ')
    assert service.times.executions == 1, "nobody runs once more"
