"""The built-in text_classifier with real models, whose answers numpy computes from their weights."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, pre_tokenizers

from pdserver.errors import ConfigError, LoadFailed
from pdserver.types import Outcome, Part
from tests.conftest import Lent
from tests.handlers.conftest import Load
from tests.handlers.requests import answer, body, json, refusal, request

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "film", "is", "good", "bad", "##ly", "very", "not", "É", "e"]
ID = {word: i for i, word in enumerate(WORDS)}
VOCABULARY = {"vocab.txt": "\n".join(WORDS).encode()}
CLS, SEP, UNK = ID["[CLS]"], ID["[SEP]"], ID["[UNK]"]
GOOD = [CLS, ID["the"], ID["film"], ID["is"], ID["good"], SEP]


@pytest.fixture(scope="module")
def weights(models: Path) -> dict[str, NDArray[Any]]:
    return dict(np.load(models / "pir/sentiment.npz"))


def expected(weights: dict[str, NDArray[Any]], ids: list[int], types: list[int] | None = None) -> NDArray[Any]:
    """Probabilities by class, without tokenizer, padding or Paddle. `types` None: of the model `bag`."""
    vectors = weights["words.weight"][ids]
    if types is not None:
        vectors = vectors + weights["segments.weight"][types]
    scores = vectors.mean(0) @ weights["scores.weight"] + weights["scores.bias"]
    powers = np.exp(scores - scores.max())
    result: NDArray[Any] = powers / powers.sum()
    return result


def by_class(outcome: Outcome) -> list[float]:
    found = answer(outcome)
    assert list(found.values()) == sorted(found.values(), reverse=True)
    return [found[str(i)] for i in range(3)]


def word_level(**padding: Any) -> bytes:
    """A tokenizer.json without special tokens that splits at spaces."""
    tokenizer = Tokenizer(models.WordLevel(ID, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if padding:
        tokenizer.enable_padding(**padding)
    text: str = tokenizer.to_str()
    return text.encode()


def test_every_way_to_send_a_text(load: Load, weights: dict[str, NDArray[Any]]) -> None:
    text = "The film is good"
    outcomes = load("pir/sentiment.json", "text_classifier", files=VOCABULARY).run(
        [
            body(text.encode(), "text/plain"),
            body(text.encode("utf-16"), "text/plain; charset=utf-16"),
            body(text.encode()),
            body(text.encode(), ""),
            json(text),
            json({"text": text}),
            json({"data": text}),
            request(Part("data", "text/plain", text.encode())),
            request(Part("text", "application/octet-stream", text.encode())),
        ]
    )
    for outcome in outcomes:
        np.testing.assert_allclose(by_class(outcome), expected(weights, GOOD, [0] * 6), rtol=1e-5)


def test_several_texts_in_one_request(load: Load) -> None:
    service = load("pir/sentiment.json", "text_classifier", files=VOCABULARY)
    one, other, pair = map(answer, service.run([json("good"), json("bad film"), json({"text": "a", "text_pair": "b"})]))
    asked: list[Any] = ["good", {"text": "bad film"}, {"text": "a", "text_pair": "b"}]
    several, untyped, named, alone, none, wrong = service.run(
        [
            json(asked),
            body(b'["good", "bad film"]', ""),
            json({"text": ["good"]}),
            json("good"),
            json([]),
            json(["a", 1]),
        ]
    )
    for got, wanted in zip(answer(several), (one, other, pair), strict=True):
        assert got == pytest.approx(wanted, rel=1e-4)
    assert [list(found) for found in answer(untyped)] == [list(one), list(other)]
    assert [list(found) for found in answer(named)] == [list(one)]
    assert list(answer(alone)) == list(one)
    assert "at least one text" in refusal(none)
    assert refusal(wrong).startswith("invalid: expected a text")


@pytest.mark.parametrize("model", ["pir/positions.json", "pir/positions-given.json"])
def test_a_text_longer_than_the_models_positions_is_refused_alone_with_the_setting(load: Load, model: str) -> None:
    long = json("very " * 30)
    good, refused = load(model, "text_classifier", files=VOCABULARY).run([json("very good film"), long])
    assert len(answer(good)) == 3
    assert refusal(refused) == (
        "invalid: the text has 32 tokens, and the model takes 8: send a shorter one; with text: {max_length: 8} in the "
        "model's config file, longer ones are cut"
    )
    (cut,) = load(model, "text_classifier", files=VOCABULARY, config={"text": {"max_length": 8}}).run([long])
    assert len(answer(cut)) == 3


def test_texts_of_all_lengths_share_a_batch(load: Load, weights: dict[str, NDArray[Any]]) -> None:
    tokens = {
        "e": [CLS, ID["e"], SEP],
        "Badly!": [CLS, ID["bad"], ID["##ly"], UNK, SEP],
        "very " * 30 + "good": [CLS, *[ID["very"]] * 30, ID["good"], SEP],
        "unheard-of É": [CLS, UNK, UNK, UNK, ID["e"], SEP],
    }
    outcomes = load("pir/sentiment.json", "text_classifier", files=VOCABULARY).run([json(text) for text in tokens])
    for outcome, ids in zip(outcomes, tokens.values(), strict=True):
        np.testing.assert_allclose(by_class(outcome), expected(weights, ids, [0] * len(ids)), rtol=1e-4)


def test_pairs(load: Load, weights: dict[str, NDArray[Any]]) -> None:
    service = load("pir/sentiment.json", "text_classifier", files=VOCABULARY)
    outcomes = service.run(
        [
            json({"text": "the film", "text_pair": "not bad"}),
            request(Part("text_pair", "text/plain", b"not bad"), Part("text", "text/plain", b"the film")),
        ]
    )
    ids = [CLS, ID["the"], ID["film"], SEP, ID["not"], ID["bad"], SEP]
    for outcome in outcomes:
        np.testing.assert_allclose(by_class(outcome), expected(weights, ids, [0, 0, 0, 0, 1, 1, 1]), rtol=1e-5)


def test_what_is_no_text_is_refused_alone(load: Load) -> None:
    outcomes = load("pir/sentiment.json", "text_classifier", files=VOCABULARY).run(
        [
            json("good"),
            json([["good"]]),
            json({"txt": "good"}),
            json({}),
            json({"text": 1}),
            json({"text": "a", "text_pair": ["b"]}),
            body(b"\xff\xfe"),
            json("good"),
        ]
    )
    assert answer(outcomes[0]) == answer(outcomes[-1])
    assert [refusal(outcome) for outcome in outcomes[1:-1]] == [
        "invalid: expected a text, got [['good']]",
        'invalid: expected a text, or {"text": …} with or without "text_pair", got txt',
        'invalid: expected a text, or {"text": …} with or without "text_pair", got nothing',
        "invalid: expected a text, got 1",
        "invalid: expected a text, got ['b']",
        "invalid: expected a text, got 2 bytes that are not UTF-8: invalid start byte",
    ]
    only_bad = load("pir/sentiment.json", "text_classifier", files=VOCABULARY).run([json(1), json(2)])
    assert [refusal(outcome) for outcome in only_bad] == [f"invalid: expected a text, got {n}" for n in (1, 2)]


def test_a_text_without_a_word_is_refused_whatever_the_tokenizer_adds(load: Load) -> None:
    service = load("pir/sentiment.json", "text_classifier", files=VOCABULARY)
    no_words = [body(b""), body(b"", "text/plain"), json(""), json({"text": ""}), json({"text": "", "text_pair": ""})]
    for sent in (*no_words, json(["good", ""]), json(" \n")):
        before, refused, after = service.run([json("good"), sent, json("good")])
        assert "has no tokens: expected at least one word" in refusal(refused)
        assert refusal(refused).startswith("invalid: ")
        assert answer(before) == answer(after)


def test_long_texts_are_cut(load: Load, weights: dict[str, NDArray[Any]]) -> None:
    config = {"text": {"max_length": 4}}
    (cut,) = load("pir/sentiment.json", "text_classifier", files=VOCABULARY, config=config).run(
        [json("good bad very not")]
    )
    np.testing.assert_allclose(by_class(cut), expected(weights, [CLS, ID["good"], ID["bad"], SEP], [0] * 4), rtol=1e-5)


def test_a_model_of_fixed_length_and_other_dtypes(load: Load, weights: dict[str, NDArray[Any]]) -> None:
    service = load("pir/six.json", "text_classifier", files=VOCABULARY)
    short, long = service.run([json("good"), json("the film is good very good")])
    np.testing.assert_allclose(by_class(short), expected(weights, [CLS, ID["good"], SEP], [0] * 3), rtol=1e-5)
    np.testing.assert_allclose(by_class(long), expected(weights, GOOD, [0] * 6), rtol=1e-5)


def test_tokenizer_json_and_an_input_of_any_name(load: Load, weights: dict[str, NDArray[Any]]) -> None:
    files = {"tokenizer.json": word_level()}
    service = load("pir/bag.json", "text_classifier", files=files, config={"text": {"padding": "none"}})
    texts = ["good", "the film", "bad film", "very bad good"]
    for outcome, text in zip(service.run([json(text) for text in texts]), texts, strict=True):
        np.testing.assert_allclose(by_class(outcome), expected(weights, [ID[w] for w in text.split()]), rtol=1e-5)
    empty, good = service.run([json(""), json("good")])
    assert refusal(empty) == "invalid: the text '' has no tokens: expected at least one word"
    assert answer(good)


def test_what_fills_up_short_texts(load: Load, weights: dict[str, NDArray[Any]]) -> None:
    def padded_with(word: str, length: int, files: dict[str, bytes], **settings: Any) -> None:
        service = load("pir/bag.json", "text_classifier", files=files, config={"text": settings})
        short, _ = service.run([json("good"), json("the film is")])
        filled = [ID["good"], *[ID[word]] * (length - 1)]
        np.testing.assert_allclose(by_class(short), expected(weights, filled), rtol=1e-5)

    padded_with("[PAD]", 3, {"tokenizer.json": word_level()})
    padded_with("e", 3, {"tokenizer.json": word_level()}, pad_token="e")
    padded_with("##ly", 3, {"tokenizer.json": word_level(pad_id=ID["##ly"], pad_token="##ly")})
    padded_with("[PAD]", 8, {"tokenizer.json": word_level()}, pad_to_multiple=8)


def test_case(load: Load, weights: dict[str, NDArray[Any]]) -> None:
    (kept,) = load("pir/bag.json", "text_classifier", files=VOCABULARY, config={"text": {"lowercase": False}}).run(
        [json("É Good")]
    )
    np.testing.assert_allclose(by_class(kept), expected(weights, [CLS, ID["É"], UNK, SEP]), rtol=1e-5)


def test_labels_and_top_k(load: Load) -> None:
    files = {**VOCABULARY, "index_to_name.json": b'{"0": "bad", "1": "so-so", "2": "good"}'}
    service = load("pir/sentiment.json", "text_classifier", files=files, config={"text": {"top_k": 2}})
    (all_three,) = load("pir/sentiment.json", "text_classifier", files=files).run([json("good")])
    (two,) = service.run([json("good")])
    assert set(answer(all_three)) == {"bad", "so-so", "good"}
    assert list(answer(two).items()) == list(answer(all_three).items())[:2]


@pytest.mark.parametrize(
    ("model", "files", "config", "message"),
    [
        ("sentiment", {}, {}, "needs the model's tokenizer: pack tokenizer.json or vocab.txt with --extra-files"),
        ("sentiment", {"tokenizer.json": b"{}"}, {}, "tokenizer.json: the tokenizers library cannot read it"),
        ("sentiment", {"vocab.txt": b"a\nb"}, {}, r"vocab.txt: has no \[UNK\]: not a WordPiece vocabulary"),
        ("sentiment", {"vocab.txt": b"\xff"}, {}, "vocab.txt: not UTF-8 text"),
        ("words", VOCABULARY, {}, r'does not know what the input "ids" takes; .* inputs: {ids: input_ids}'),
        ("words", VOCABULARY, {"inputs": {"ids": "input_ids", "flag": "attention_mask", "weight": "position_ids"}},
         r"needs inputs \[n, length\] of numbers"),
        ("six", VOCABULARY, {"text": {"max_length": 7}}, "text.max_length: 7: the model takes 6 tokens"),
        ("six", VOCABULARY, {"text": {"max_length": 3}}, "text.max_length: 3: the 3 special tokens leave no room"),
        ("sentiment", VOCABULARY, {"text": {"pad_token": "x"}}, "text.pad_token: x: the vocabulary has no such token"),
        ("sentiment", VOCABULARY, {"text": {"maxlength": 7}}, "text.maxlength: unknown setting; did you mean max_len"),
        ("sentiment", {"vocab.txt": b"[UNK]\n[CLS]\n[SEP]"}, {}, r"text.pad_token: the vocabulary has neither \[PAD\]"),
    ],
)  # fmt: skip
def test_what_cannot_be_loaded(
    load: Load, model: str, files: dict[str, bytes], config: dict[str, Any], message: str
) -> None:
    with pytest.raises((LoadFailed, ConfigError), match=message):
        load(f"pir/{model}.json", "text_classifier", files=files, config=config)


def test_without_the_library(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    for module in ("text.tokens", "text_classifier"):
        monkeypatch.delitem(sys.modules, f"pdserver.handlers.{module}", raising=False)
    with pytest.raises(LoadFailed, match="texts need the tokenizers library: pip install tokenizers"):
        load("pir/sentiment.json", "text_classifier", files=VOCABULARY)


def test_on_a_server(lent: Lent, models: Path, tmp_path: Path, weights: dict[str, NDArray[Any]]) -> None:
    (tmp_path / "vocab.txt").write_bytes(VOCABULARY["vocab.txt"])
    server = lent(
        "text_classifier",
        "film",
        config="batchSize: 4\nmaxBatchDelay: 50\n",
        serialized_file=models / "pir/sentiment.json",
        extra_files=(str(tmp_path / "vocab.txt"),),
    )
    reply = server.predict("film", "the film is good", headers={"Content-Type": "text/plain"})
    assert reply.headers["Content-Type"] == "application/json"
    found = orjson.loads(reply.content)
    np.testing.assert_allclose([found[str(i)] for i in range(3)], expected(weights, GOOD, [0] * 6), rtol=1e-5)
