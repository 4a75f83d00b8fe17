"""The built-in base_handler with real models: what it takes, what it answers, whom it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from numpy.typing import NDArray

from pdserver.handlers.runtime.service import Service
from pdserver.types import Part
from tests.handlers.conftest import Load, paddle
from tests.handlers.requests import answer, body, explain, json, npy, refusal, request, tensor

NAMED = {"inputs": {"x": "features"}, "outputs": {"fetch_name_0": "price"}}
ROWS = np.random.default_rng(1).normal(size=(6, 13)).astype(np.float32)


def directly(models: Path, name: str, *inputs: NDArray[Any]) -> NDArray[Any]:
    """The first output, without any of our code."""
    outputs = paddle.jit.load(str(models / "pir" / name))(*map(paddle.to_tensor, inputs))
    result: NDArray[Any] = (outputs[0] if isinstance(outputs, list | tuple) else outputs).numpy()
    return result


def linear(load: Load) -> Service:
    return load("pir/linear.json", config=NAMED)


def test_every_form_of_a_request_gives_the_same_answer(load: Load, models: Path) -> None:
    row = ROWS[0]
    outcomes = linear(load).run(
        [
            json(row),
            json({"features": row}),
            request(Part("features", "application/json", str(row.tolist()).encode())),
            request(Part("data", "", str(row.tolist()).encode())),
            body(npy(row)),
            body(npy(np.asfortranarray(row.astype(">f4"))), "application/x-npy"),
            request(Part("features", "application/octet-stream", npy(row))),
            request(tensor("features", row)),
            json([1] * 13),
        ]
    )
    expected = directly(models, "linear", row[None])[0]
    for outcome in outcomes[:-1]:
        assert list(answer(outcome)) == ["price"]
        np.testing.assert_allclose(answer(outcome)["price"], expected, rtol=1e-5)
    ones = directly(models, "linear", np.ones((1, 13), np.float32))[0]
    np.testing.assert_allclose(answer(outcomes[-1])["price"], ones, rtol=1e-5)


LOOKS = """
from pdserver.handlers.base import BaseHandler

class Looks(BaseHandler):
    def inference(self, inputs):
        held = next(iter(inputs.values()))
        while hasattr(held, "base"):
            held = held.base
        self.seen = held
        return super().inference(inputs)

    def postprocess(self, outputs):
        return [{"seen": type(self.seen).__name__}]
"""
AND_AT_BYTES = """
    def preprocess(self, data):
        self.seen = next(iter(data[0].values()))
        return super().preprocess(data)

    inference = BaseHandler.inference

    def get_insights(self, inputs, raw, target):
        return [{"seen": type(raw).__name__}]
"""


@pytest.mark.parametrize(
    ("source", "verb", "seen"),
    [
        (LOOKS, "predict", "memoryview"),
        (LOOKS + AND_AT_BYTES, "predict", "bytearray"),
        (LOOKS + AND_AT_BYTES, "explain", "bytearray"),
    ],
)
def test_a_large_file_is_read_where_it_is_unless_a_handler_looks_at_it(
    load: Load, source: str, verb: Literal["predict", "explain"], seen: str
) -> None:
    """What comes in a memory file is a view of it here; only who asks for its bytes is given a copy."""
    service = load("pir/linear.json", source=source, config=NAMED)
    large: Any = memoryview(npy(ROWS[0]))
    (outcome,) = service.run([explain(body(large), verb)])
    assert answer(outcome)["seen"] == seen
    (bad,) = service.run([explain(body(large[:-4]), verb)])
    assert "the .npy file cannot be read" in refusal(bad)
    (stated,) = service.run([explain(body(large, "application/json"), verb)])
    assert "is not valid JSON" in refusal(stated)


def test_a_batch_of_plain_rows(load: Load, models: Path) -> None:
    outcomes = linear(load).run([json(row) for row in ROWS])
    np.testing.assert_allclose([answer(o)["price"] for o in outcomes], directly(models, "linear", ROWS), rtol=1e-5)


def test_a_request_that_gives_the_batch_axis_gets_it_back(load: Load, models: Path) -> None:
    outcomes = linear(load).run([json(ROWS[:3]), json(ROWS[3]), json(ROWS[4:5]), request(tensor("features", ROWS[4:]))])
    expected = directly(models, "linear", ROWS)
    wanted = (expected[:3], expected[3], expected[4:5], expected[4:])
    for outcome, prices in zip(outcomes, wanted, strict=True):
        got = np.array(answer(outcome)["price"])
        assert got.shape == prices.shape
        np.testing.assert_allclose(got, prices, rtol=1e-5)


EXPECTED = 'input "features": expected float32 of shape [13], got '


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1.0] * 12, EXPECTED + "shape [12]"),
        ([], EXPECTED + "shape [0]"),
        ([[1.0] * 12], EXPECTED + "shape [1, 12]"),
        ([[[1.0] * 13]], EXPECTED + "shape [1, 1, 13]"),
        (5, EXPECTED + "a single number"),
        ([1.0] * 12 + ["1"], EXPECTED + '"1" at [12]'),
        ([1.0] * 12 + [True], EXPECTED + "true at [12]"),
        ([1.0] * 12 + [None], EXPECTED + "null at [12]"),
        ([1.0] * 12 + [[2.0]], EXPECTED + "a list at [12]"),
        ([1.0] * 12 + [{}], EXPECTED + "an object at [12]"),
        ([1.0] * 12 + [1e300], EXPECTED + "a number that float32 cannot hold"),
        ([[1.0] * 13, [1.0] * 12], EXPECTED + "lists of different lengths: 13, and 12 at [1]"),
        ([[1.0] * 13, 2.0], EXPECTED + "a single value at [1] beside lists"),
        ("abc", EXPECTED + '"abc"'),
        (None, EXPECTED + "null"),
        (
            {"feature": [1.0] * 13},
            'unknown input "feature"; did you mean features? The model\'s inputs are "features"',
        ),
        ({"features": [1.0] * 13, "z": 1}, 'unknown input "z". The model\'s inputs are "features"'),
        ({}, 'the request is empty: expected the model\'s inputs "features"'),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused_alone(load: Load, value: Any, message: str) -> None:
    before, bad, after = linear(load).run([json(ROWS[0]), json(value), json(ROWS[0])])
    assert refusal(bad) == f"invalid: {message}"
    assert answer(before) == answer(after)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (npy(np.zeros(12, np.float32)), EXPECTED + "float32 of shape [12]"),
        (npy(np.zeros(13)), EXPECTED + "float64 of shape [13]"),
        (npy(np.zeros((0, 13), np.float32)), EXPECTED + "float32 of shape [0, 13]"),
        (npy(np.zeros(13, np.float32))[:-4], "the .npy file cannot be read: "),
        (npy(np.zeros(13, np.float32))[:20], "the .npy file cannot be read: "),
        (npy(np.array([object()])), "the .npy file cannot be read: "),
        (npy(np.zeros(1, np.float32)).replace(b"(1,)", b"(9" + b"9" * 12 + b",)"), "the .npy file cannot be read: "),
        (b"", EXPECTED[:-6] + " as JSON (Content-Type: application/json) or an .npy file, got 0 bytes"),
        (b"\x00\x01", "got 2 bytes of something else"),
    ],
)  # fmt: skip
def test_files_that_do_not_fit_are_refused_alone(load: Load, data: bytes, message: str) -> None:
    bad, good = linear(load).run([body(data), body(npy(ROWS[0]))])
    assert refusal(bad).startswith("invalid: ")
    assert message in refusal(bad)
    assert answer(good)


def words(ids: Any, flag: Any = True, weight: Any = 1.0) -> dict[str, Any]:
    return {"ids": ids, "flag": flag, "weight": weight}


def test_several_inputs_and_rows_of_different_lengths(load: Load, models: Path) -> None:
    requests = [
        words([1, 2]),
        words([3], False, 2.5),
        words([4, 5], weight=3),
        words([[6], [7]], [True, False], [1, 2]),
    ]
    outcomes = load("pir/words.json").run([json(given) for given in requests])
    for given, outcome in zip(requests[:3], outcomes[:3], strict=True):
        weight = np.array([given["weight"]], np.float32)
        expected = directly(models, "words", np.array([given["ids"]]), np.array([given["flag"]]), weight)
        got = answer(outcome)
        np.testing.assert_allclose(got["fetch_name_0"], expected[0], rtol=1e-5)
        assert got["fetch_name_1"] is not given["flag"]
    both = answer(outcomes[3])
    two = directly(models, "words", np.array([[6], [7]]), np.array([True, False]), np.array([1, 2], np.float32))
    np.testing.assert_allclose(both["fetch_name_0"], two, rtol=1e-5)
    assert both["fetch_name_1"] == [False, True]


def test_an_answer_does_not_depend_on_its_neighbours(load: Load) -> None:
    service = load("pir/words.json")
    requests = [json(words(list(range(1, 1 + length)))) for length in (3, 1, 2, 3, 1)]
    assert service.run(requests) == [service.run([one])[0] for one in requests]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (words([1.5]), 'input "ids": expected int64 of shape [any], got 1.5 at [0]'),
        (words([1.0]), 'input "ids": expected int64 of shape [any], got 1.0 at [0]'),
        (words([2**63]), 'input "ids": expected int64 of shape [any], got a number that int64 cannot hold'),
        (words([]), 'input "ids": expected int64 of shape [any], got shape [0]'),
        (words([1], flag=1), 'input "flag": expected bool of shape [], got 1'),
        (words([1], weight=True), 'input "weight": expected float32 of shape [], got true'),
        (words([[1], [2]]), 'the inputs do not agree on the number of rows: "ids" has 2 rows, "flag" is one row'),
        ({"ids": [1], "flag": True}, 'input "weight" is missing'),
        ([1], "is missing: expected a JSON object or parts with the model's inputs"),
    ],
    ids=str,
)
def test_several_inputs_that_do_not_fit(load: Load, given: Any, message: str) -> None:
    bad, good = load("pir/words.json").run([json(given), json(words([1]))])
    assert refusal(bad).startswith("invalid: ")
    assert message in refusal(bad)
    assert answer(good)


def test_a_model_of_fixed_batch_size_takes_any_number_of_requests(load: Load, models: Path) -> None:
    service = load("pir/pairs.json")
    for count in (1, 2, 5):
        outcomes = service.run([json(row) for row in ROWS[:count]])
        got = [answer(outcome)["fetch_name_0"] for outcome in outcomes]
        np.testing.assert_allclose(got, directly(models, "linear", ROWS[:count]), rtol=1e-5)


SUBCLASS = """
import numpy as np
from pdserver.errors import InvalidRequest
from pdserver.handlers.base import BaseHandler

class Mine(BaseHandler):
"""


def test_a_handler_of_ones_own_overrides_a_step(load: Load, models: Path) -> None:
    source = SUBCLASS + (
        "    def postprocess(self, outputs):\n"
        "        return [{'double': 2 * float(value)} for value in outputs['price'][:, 0]]\n"
    )
    one, bad, several = load("pir/linear.json", source=source, config=NAMED).run(
        [json(ROWS[0]), json([1]), json(ROWS[1:3])]
    )
    expected = 2 * directly(models, "linear", ROWS)[:, 0]
    assert answer(one)["double"] == pytest.approx(expected[0], rel=1e-5)
    assert refusal(bad).startswith("invalid: ")
    assert [row["double"] for row in answer(several)] == pytest.approx(expected[1:3].tolist(), rel=1e-5)


def test_one_array_is_a_models_one_input(load: Load, models: Path) -> None:
    source = SUBCLASS + (
        "    def preprocess(self, data):\n"
        "        self.places = [InvalidRequest('no') if row['body'] is None else 0 for row in data]\n"
        "        return np.array([row['body'] for row in data if row['body']])\n"
    )
    (good,) = load("pir/linear.json", source=source, config=NAMED).run([json(ROWS[0])])
    assert answer(good)["price"] == pytest.approx(directly(models, "linear", ROWS)[0].tolist(), rel=1e-5)
    bad, again = load("pir/linear.json", source=source, config=NAMED).run([json(None), json(ROWS[0])])
    assert refusal(bad) == "invalid: no"
    assert answer(again) == answer(good)


@pytest.mark.parametrize(
    "returned",
    [
        "{'features': [row['body'] for row in data]}",
        "[row['body'] for row in data]",
        "{'features': [np.array(row['body']) for row in data]}",
        "paddle.to_tensor([row['body'] for row in data], dtype='float32')",
        "{'features': paddle.to_tensor([row['body'] for row in data])}",
    ],
)
def test_lists_and_tensors_are_arrays(load: Load, models: Path, returned: str) -> None:
    source = SUBCLASS + f"    def preprocess(self, data):\n        import paddle\n        return {returned}\n"
    outcomes = load("pir/linear.json", source=source, config=NAMED).run([json(row) for row in ROWS[:2]])
    prices = [answer(outcome)["price"] for outcome in outcomes]
    np.testing.assert_allclose(prices, directly(models, "linear", ROWS[:2]), rtol=1e-5)


def test_a_list_is_the_input_of_a_model_whose_rows_run_one_by_one(load: Load, odd_models: Path) -> None:
    source = SUBCLASS + "    def preprocess(self, data): return [row['body'] for row in data]\n"
    model = str(odd_models / "neighbours.json")
    (one,) = load(model, source=source).run([json([1.0] * 6)])
    assert answer(one) == answer(load(model).run([json([1.0] * 6)])[0])


def test_a_list_is_the_input_of_a_handler_that_derives_from_another_one(load: Load, models: Path) -> None:
    source = (
        "from pdserver.handlers.image_classifier import ImageClassifier\n"
        "class Mine(ImageClassifier):\n"
        "    def preprocess(self, data): return [row['body'] for row in data]\n"
    )
    picture = [[[0.5] * 8] * 8]
    config = {"image": {"color": "gray", "resize": [8, 8], "crop": None}}
    (one,) = load("pir/digits.json", source=source, config=config).run([json(picture)])
    assert answer(one) == answer(load("pir/digits.json", "image_classifier", config=config).run([json(picture)])[0])


@pytest.mark.parametrize("given", ["inputs['features']", "paddle.to_tensor(inputs['features'])",
                                   "{'features': paddle.to_tensor(inputs['features'])}"])  # fmt: skip
def test_the_inherited_inference_takes_tensors_whoever_calls_it(load: Load, models: Path, given: str) -> None:
    source = SUBCLASS + (
        f"    def inference(self, inputs):\n        import paddle\n        return super().inference({given})\n"
    )
    (one,) = load("pir/linear.json", source=source, config=NAMED).run([json(ROWS[0])])
    np.testing.assert_allclose(answer(one)["price"], directly(models, "linear", ROWS[:1])[0], rtol=1e-5)


def test_tensors_of_bfloat16_are_the_numbers_that_they_hold(load: Load, models: Path) -> None:
    source = SUBCLASS + (
        "    def preprocess(self, data):\n"
        "        import paddle\n"
        "        return paddle.ones([len(data), 13], 'bfloat16')\n"
    )
    (one,) = load("pir/linear.json", source=source, config=NAMED).run([json(ROWS[0])])
    expected = directly(models, "linear", np.ones((1, 13), np.float32))[0]
    np.testing.assert_allclose(answer(one)["price"], expected, rtol=1e-5)


def test_a_handler_of_ones_own_fails_one_request_while_preparing(load: Load) -> None:
    source = SUBCLASS + (
        "    def preprocess(self, data):\n"
        "        self.places, rows = [], []\n"
        "        for row in data:\n"
        "            if row['body'] < 0:\n"
        "                self.places.append(InvalidRequest('negative'))\n"
        "            else:\n"
        "                self.places.append(len(rows))\n"
        "                rows.append([row['body']] * 13)\n"
        "        return {'x': np.array(rows)}\n"  # float64: converted
    )
    service = load("pir/linear.json", source=source)
    one, bad, two = service.run([json(1.0), json(-1.0), json(2.0)])
    assert answer(one) != answer(two)
    assert refusal(bad) == "invalid: negative"
    assert [refusal(o) for o in service.run([json(-1.0)] * 2)] == ["invalid: negative"] * 2


@pytest.mark.parametrize(
    ("body_of_step", "message"),
    [
        ("def preprocess(self, data): return {'y': np.zeros((1, 13))}", "the model has no input \"y\""),
        ("def preprocess(self, data): return {'x': np.zeros((1, 12), 'f')}", 'input "x": expected float32 of shape '
         "[any, 13], got float32 of shape [1, 12]"),
        ("def preprocess(self, data): return np.zeros((1, 13, 1), 'f')", "got float32 of shape [1, 13, 1]"),
        ("def preprocess(self, data): return 'x'", 'gave the model str, expected {"x": array}, or the array alone'),
        ("def preprocess(self, data): return {}", "the handler left out x"),
        ("def preprocess(self, data): return {'x': np.zeros((0, 13), 'f')}", "has no elements"),
        ("def preprocess(self, data): return {'x': np.zeros((1, 13), complex)}", "expected float32, got complex128"),
        ("def preprocess(self, data): return {'x': [[1, 2], [3]]}", "got int64 of shape [1, 2]"),
        ("def preprocess(self, data): return {'x': [[[1], 2], [3]]}", "expected an array of numbers: "),
        ("def preprocess(self, data): return {'x': None}", "expected an array of numbers, got NoneType"),
        ("def preprocess(self, data): return {'x': ['a']}", "expected an array of numbers, got list"),
        ("def postprocess(self, outputs): return []", "handler returned 0 answers for a batch of 1"),
        ("def inference(self, inputs): return {'a': np.zeros(3), 'b': np.zeros(2)}", "first axis of every output"),
    ],
)  # fmt: skip
def test_a_handler_of_ones_own_is_told_what_it_did_wrong(load: Load, body_of_step: str, message: str) -> None:
    service = load("pir/linear.json", source=SUBCLASS + f"    {body_of_step}\n")
    assert message in refusal(service.run([json(ROWS[0])])[0])
