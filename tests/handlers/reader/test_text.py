"""Readers of texts: errors, threads, and bugs of theirs that are not copied."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pdserver.errors import ArchiveUnusable
from pdserver.handlers import reader as r
from tests.handlers.reader.cases import bert, file, imdb, lac


def test_words_outside_of_tags(tmp_path: Path) -> None:
    """Theirs looks at the letters of one tag where it means the tag before, and fails from the third character on."""
    reader = lac(r, {"folder": tmp_path})
    assert reader.parse_result("我爱北京!!", [[2], [3], [0], [1], [3], [3]]) == ["我", "爱", "北京", "!!"]


def test_vocabularies_with_numbers(tmp_path: Path) -> None:
    """As ERNIE's: a token, a tab, its number."""
    tokens = ["[PAD]", "[CLS]", "[SEP]", "[MASK]", "北", "[UNK]"]
    path = tmp_path / "vocab.txt"
    path.write_text("".join(f"{token}\t{number}\n" for number, token in enumerate(tokens)))
    assert r.ChineseBertReader({"vocab_file": path, "max_seq_len": 4}).process("北x")["input_ids"] == [1, 4, 5, 0]
    path.write_text("[PAD]\tone\n")
    with pytest.raises(ArchiveUnusable, match=r"vocab.txt: expected a token's number after each tab"):
        r.ChineseBertReader({"vocab_file": path})


def test_other_names_for_the_inputs(tmp_path: Path) -> None:
    path = file({"folder": tmp_path}, "vocab.txt", b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]")
    reader = r.ChineseBertReader({"vocab_file": path})
    reader.set_feed_keys(["a", "b", "c", "d"])
    assert list(reader.process("x")) == reader.get_feed_keys() == ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda i: r.LACReader(i), "LACReader: dict_folder=.*expected the folder of the model's word.dic"),
        (lambda i: r.LACReader(), "LACReader: dict_folder=''"),
        (lambda i: lac(r, {"folder": i}).parse_result("我", []), "crf_decode=0: expected a tag for each of 1"),
        (lambda i: r.SentaReader(), "SentaReader: vocab_path='': expected the vocabulary"),
        (lambda i: r.ChineseBertReader(), r"ChineseBertReader: args\['vocab_file'\]=None: expected the vocabulary"),
        (lambda i: bert(r, {"folder": i}, "x", max_seq_len=2), r"args\['max_seq_len'\]=2: expected 3 or more"),
        (lambda i: r.IMDBDataset().get_words_only("x"), r"expected load_resource\(vocabulary\) before any text"),
    ],
)  # fmt: skip
def test_errors_name_the_argument_and_what_was_expected(
    use: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        use(tmp_path)


def test_threads_share_readers(tmp_path: Path) -> None:
    given: dict[str, Any] = {"folder": tmp_path}
    reviews = imdb(r, given)
    chinese = lac(r, given)
    texts = ["a good film", "北京", "我爱", "film, a"] * 25
    expected = [(reviews.get_words_only(text), chinese.process(text)) for text in texts]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(lambda text: (reviews.get_words_only(text), chinese.process(text)), texts)) == expected
