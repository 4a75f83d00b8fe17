"""What handlers say of why and what: computed by numpy from the models' weights, or by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

from pdserver.types import Failure, Part, Reply, Request
from tests.conftest import Lent
from tests.handlers.conftest import Load
from tests.handlers.pictures import encoded
from tests.handlers.requests import answer, body, explain, json, npy, refusal, request
from tests.handlers.test_text_classifier import CLS, ID, SEP, UNK, VOCABULARY, expected, word_level

PIXELS = np.random.default_rng(5).integers(0, 256, (8, 16, 3), dtype=np.uint8)
"""Blue, green, red."""
MEANS = {"image": {"resize": [16, 8], "crop": None, "mean": [0], "std": [1], "softmax": False}}
"""With the model `colours`, the probability of a class is the mean of its channel."""
LABELS = {"index_to_name.json": b'{"0": "red", "1": "green", "2": "blue"}'}


def drops(channel: int, patch: int = 4) -> NDArray[Any]:
    """Of the mean of a channel (red first), when a square gets the mean's colour."""
    plane = PIXELS[:, :, 2 - channel] / 255
    squares = plane.reshape(8 // patch, patch, 16 // patch, patch).mean((1, 3))
    result: NDArray[Any] = (squares - plane.mean()) * patch * patch / plane.size
    return result


@pytest.mark.parametrize(
    ("target", "channel"),
    [("green", 1), ("1", 1), (b"2", 2), (None, int(np.argmax(PIXELS.mean((0, 1))[::-1])))],
)
def test_pictures_are_hidden_square_by_square(load: Load, target: Any, channel: int) -> None:
    config = {**MEANS, "explanation": {"patch": 4}}
    service = load("pir/colours.json", "image_classifier", config=config, files=LABELS)
    parts = [Part("data", "image/png", encoded(PIXELS))]
    if target is not None:
        kind = "text/plain" if isinstance(target, str) else "application/octet-stream"
        parts.append(Part("target", kind, target.encode() if isinstance(target, str) else target))
    (found,) = service.run([explain(request(*parts))])
    np.testing.assert_allclose(answer(found), drops(channel), atol=1e-5)


def test_squares_overlap_and_reach_the_border(load: Load) -> None:
    config = {**MEANS, "explanation": {"patch": 4, "stride": 3}}
    (found,) = load("pir/colours.json", "image_classifier", config=config).run([explain(body(encoded(PIXELS)))])
    assert np.shape(answer(found)) == (3, 5)
    by_default, few_pixels = load("pir/colours.json", "image_classifier", config=MEANS).run(
        [explain(body(encoded(PIXELS))), explain(json(np.ones((3, 1, 2)).tolist()))]
    )
    assert np.shape(answer(by_default)) == (8, 16)
    assert answer(few_pixels) == [[0, 0]]


def test_several_rows_and_targets_in_json(load: Load) -> None:
    config = {**MEANS, "explanation": {"patch": 4}}
    array = np.ascontiguousarray((PIXELS[:, :, ::-1] / 255).transpose(2, 0, 1), np.float32)
    service = load("pir/colours.json", "image_classifier", config=config)
    named, two, unknown, no_image, number = service.run(
        [
            explain(json({"data": array, "target": 2})),
            explain(request(Part("data", "", npy(np.stack([array, array]))), Part("target", "text/plain", b"0"))),
            explain(json({"data": array, "target": "gren"})),
            explain(body(b"no image")),
            explain(json({"data": array, "target": 3})),
        ]
    )
    np.testing.assert_allclose(answer(named), drops(2), atol=1e-5)
    np.testing.assert_allclose(answer(two), [drops(0)] * 2, atol=1e-5)
    assert refusal(unknown) == "invalid: target: the model has no class gren"
    assert refusal(no_image).startswith("invalid: expected a JPEG")
    assert refusal(number) == "invalid: target: the model has no class 3"


def test_texts_are_left_without_one_word_after_the_other(load: Load, models: Path) -> None:
    weights = dict(np.load(models / "pir/sentiment.npz"))
    service = load("pir/sentiment.json", "text_classifier", files=VOCABULARY)
    good, pair = service.run(
        [
            explain(json({"text": "Badly GOOD!", "target": 1})),
            explain(request(Part("data", "text/plain", b"film"), Part("text_pair", "text/plain", b"not bad"))),
        ]
    )
    tokens = [CLS, ID["bad"], ID["##ly"], ID["good"], UNK, SEP]
    whole = expected(weights, tokens, [0] * 6)[1]
    without = [expected(weights, tokens[:start] + tokens[stop:], [0] * (6 - stop + start))[1]
               for start, stop in ((1, 3), (3, 4), (4, 5))]  # fmt: skip
    assert answer(good)["words"] == ["Badly", "GOOD", "!"]
    assert answer(good)["target"] == "1"
    np.testing.assert_allclose(answer(good)["importances"], whole - np.array(without), atol=1e-5)
    assert answer(pair)["words"] == ["film", "not", "bad"]
    ids, types = [CLS, ID["film"], SEP, ID["not"], ID["bad"], SEP], [0, 0, 0, 1, 1, 1]
    best = int(expected(weights, ids, types).argmax())
    difference = expected(weights, ids, types)[best] - expected(weights, ids[:4] + ids[5:], types[:4] + types[5:])[best]
    assert answer(pair)["importances"][2] == pytest.approx(difference, abs=1e-5)


def test_many_words_and_one(load: Load) -> None:
    many, none = load("pir/sentiment.json", "text_classifier", files=VOCABULARY).run(
        [explain(json("very " * 40)), explain(json(""))]
    )
    assert len(answer(many)["importances"]) == 40
    assert "has no tokens" in refusal(none)
    (only,) = load("pir/bag.json", "text_classifier", files={"tokenizer.json": word_level()}).run(
        [explain(json("good"))]
    )
    assert answer(only)["words"] == ["good"]


RECORDING = """
def handle(data, context):
    if data is None: return
    answers = []
    for i, row in enumerate(data):
        header = context.get_request_header(i, 'explain') or context.get_request_header(i, 'describe')
        answers.append([context.verb, header, row['body'], context.get_request_id(i)])
    return answers
"""


def test_a_batch_has_one_verb_and_answers_keep_their_order(load: Load) -> None:
    def ask(number: int, verb: str) -> Request:
        given = request(Part("body", "application/json", b"%d" % number), id=f"id{number}")
        return given if verb == "predict" else explain(given, verb)  # type: ignore[arg-type]

    verbs = ["predict", "explain", "predict", "describe", "explain"]
    requests = [ask(number, verb) for number, verb in enumerate(verbs)]
    requests.insert(2, body(b"{", "application/json"))
    outcomes = load(None, source=RECORDING).run(requests)
    assert isinstance(outcomes.pop(2), Failure)
    assert [answer(outcome) for outcome in outcomes] == [
        [verb, None if verb == "predict" else "True", number, f"id{number}"] for number, verb in enumerate(verbs)
    ]


def test_pieces_of_answers_reach_the_requests_that_they_are_for(load: Load) -> None:
    source = (
        "def handle(data, context):\n"
        "    if data is None: return\n"
        "    context.send_intermediate([f'{context.verb} {row[\"body\"]}' for row in data])\n"
        "    return data\n"
    )
    pieces: list[tuple[int, bytes]] = []

    def keep(position: int, piece: Reply) -> None:
        pieces.append((position, piece.body))

    load(None, source=source).run([json(0), explain(json(1)), body(b"{", "application/json"), json(3)], keep)
    assert sorted(pieces) == [(0, b"predict 0"), (1, b"explain 1"), (3, b"predict 3")]


def test_a_handlers_own_insights_and_description(load: Load) -> None:
    source = (
        "from pdserver.handlers.base import BaseHandler\n"
        "class Own(BaseHandler):\n"
        "    def get_insights(self, tensor_data, raw_data, target):\n"
        "        return [{'sum': tensor_data['x'].sum(), 'raw': raw_data, 'target': target}]\n"
        "    def describe_handle(self):\n"
        "        return {'made': 'by hand'}\n"
    )
    row = [1.0] * 13
    service = load("pir/linear.json", source=source)
    plain, named, described = service.run(
        [explain(json(row)), explain(json({"x": row})), explain(json({}), "describe")]
    )
    assert answer(plain) == {"sum": 13, "raw": row, "target": None}
    assert answer(named) == {"sum": 13, "raw": {"x": row}, "target": None}
    assert answer(described) == {"made": "by hand"}


def test_what_base_handler_says(load: Load) -> None:
    unexplained, described = load("pir/linear.json").run([explain(json([1.0] * 13)), explain(json({}), "describe")])
    assert isinstance(unexplained, Failure)
    assert unexplained.status == 501
    assert unexplained.message == "BaseHandler explains nothing: it has no method get_insights"
    assert answer(described) == {
        "inputs": [{"name": "x", "dtype": "float32", "shape": [-1, 13]}],
        "outputs": [{"name": "fetch_name_0", "dtype": "float32", "shape": [-1, 1]}],
    }


def test_on_a_server(lent: Lent, models: Path) -> None:
    config = yaml.safe_dump({**MEANS, "explanation": {"patch": 4}})
    server = lent("image_classifier", "colours", config, serialized_file=models / "pir/colours.json")
    address = f"{server.inference}/explanations/colours"
    reply = server.session.post(address, files={"data": encoded(PIXELS)}, data={"target": "1"}, timeout=60)
    np.testing.assert_allclose(reply.json(), drops(1), atol=1e-5)
    assert server.predict("colours", encoded(PIXELS)).json().keys() == {"0", "1", "2"}


OWN_TYPE = """
from {base} import BaseHandler

class Words(BaseHandler):
    def initialize(self, context):
        self.initialized = True

    def preprocess(self, data):
        return tuple(bytes(row.get("data") or row.get("body")).decode().split() for row in data), "a mask"

    def inference(self, batch):
        return [len(words) for words in batch[0]]

    def postprocess(self, lengths):
        return lengths

    def get_insights(self, batch, text, target):
        target = target.decode() if isinstance(target, bytearray) else target
        return [{{"batch": batch, "raw": type(text).__name__, "target": target}}]
"""


@pytest.mark.parametrize(("base", "usual"), [("ts.torch_handler.base_handler", 0), ("pdserver.handlers.base", None)])
def test_a_handler_explains_what_its_own_preprocess_made_of_a_request(load: Load, base: str, usual: int | None) -> None:
    """It is no dictionary of arrays, so each request of a batch has its own made for it."""
    service = load(None, source=OWN_TYPE.format(base=base))
    (alone,) = service.run([explain(body(b"one word", ""))])
    assert answer(alone) == {"batch": [[["one", "word"]], "a mask"], "raw": "bytearray", "target": usual}
    first, second = service.run(
        [explain(body(b"more", "")), explain(request(Part("data", "", b"a few more"), Part("target", "", b"2")))]
    )
    assert answer(first)["batch"] == [[["more"]], "a mask"]
    assert answer(second) == {"batch": [[["a", "few", "more"]], "a mask"], "raw": "bytearray", "target": "2"}
    assert [answer(outcome) for outcome in service.run([body(b"a b", ""), body(b"c", "")])] == [2, 1]
