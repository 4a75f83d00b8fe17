"""Texts → the numbers of their words, by the vocabularies that the models were trained with."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from pdserver.handlers.reader.checks import check

_UNKNOWN, _OUTSIDE = "OOV", "O"


class LACReader:
    """For LAC, which divides Chinese texts into words. `dict_folder` has word.dic, tag.dic and q2b.dic, whose lines are
    two columns with a tab between them. Raises ValueError for a folder without them."""

    def __init__(self, dict_folder: str | PathLike[str] = "") -> None:
        folder = Path(dict_folder or "lac_dict")
        for name in ("word.dic", "tag.dic", "q2b.dic"):
            there = (folder / name).is_file()
            check(there, self, "dict_folder", str(dict_folder), f"the folder of the model's {name}; pack it with it")
        self.word2id_dict = {word: int(number) for number, word in _pairs(folder / "word.dic")}
        self.id2word_dict = dict(_pairs(folder / "word.dic"))
        self.label2id_dict = {label: int(number) for number, label in _pairs(folder / "tag.dic")}
        self.id2label_dict = dict(_pairs(folder / "tag.dic"))
        self.word_replace_dict = dict(_pairs(folder / "q2b.dic"))
        check(_UNKNOWN in self.word2id_dict, self, "dict_folder", str(dict_folder), f"a word.dic that has {_UNKNOWN}")

    @property
    def vocab_size(self) -> int:
        return max(self.word2id_dict.values()) + 1

    @property
    def num_labels(self) -> int:
        return max(self.label2id_dict.values()) + 1

    def process(self, sent: str) -> list[int]:
        """The number of each character, without the blanks around the text."""
        return self.word_to_ids(sent.strip())

    def word_to_ids(self, words: Iterable[str]) -> list[int]:
        replaced = (self.word_replace_dict.get(word, word) for word in words)
        unknown = self.word2id_dict[_UNKNOWN]
        return [self.word2id_dict.get(word, unknown) for word in replaced]

    def label_to_ids(self, labels: Iterable[str]) -> list[int]:
        return [self.label2id_dict[label if label in self.label2id_dict else _OUTSIDE] for label in labels]

    def parse_result(self, words: str, crf_decode: Iterable[Sequence[int]]) -> list[str]:
        """The words of the text. `crf_decode` is [characters, 1], the number of each character's tag: a word begins
        where a tag ends in -B, and at a tag O after another tag. Raises ValueError for another number of tags."""
        tags = [self.id2label_dict[str(int(row[0]))] for row in crf_decode]
        check(len(tags) == len(words), self, "crf_decode", len(tags), f"a tag for each of {len(words)} characters")
        found: list[str] = []
        for i, (word, tag) in enumerate(zip(words, tags, strict=True)):
            if not found or tag.endswith("-B") or (tag == _OUTSIDE and tags[i - 1] != _OUTSIDE):
                found.append(word)
            else:
                found[-1] += word
        return found


class SentaReader:
    """For Senta, which tells good from bad. `vocab_path` has a word and its number in each line, a tab between them.

    `max_seq_len` is taken and does nothing, as there. Raises ValueError for a file that is missing or no vocabulary.
    """

    def __init__(self, vocab_path: str | PathLike[str] = "", max_seq_len: int = 20) -> None:
        path = Path(vocab_path or "senta_vocab.txt")
        check(path.is_file(), self, "vocab_path", str(vocab_path), "the vocabulary of the model; pack it with it")
        self.max_seq_len = max_seq_len
        self.word_dict: dict[str, int] = {}
        for line in path.read_text(encoding="utf-8").split("\n"):
            if text := line.strip():
                *words, number = text.split("\t")[:2]
                self.word_dict["".join(words)] = int(number)
        self.word_dict["<unk>"] = len(self.word_dict)

    def process(self, cols: Iterable[str]) -> list[int]:
        """The number of each word. Unknown ones get the number after that of <unk>, as in the training of the model."""
        return [self.word_dict.get(word, len(self.word_dict)) for word in cols]


class IMDBDataset:
    """For models that judge reviews in English. `load_resource` comes first."""

    _MARKS = re.compile(r"(;|,|\.|\?|!|\s|\(|\))")

    def __init__(self) -> None:
        self._vocab: dict[str, int] = {}

    def load_resource(self, dictfile: str | PathLike[str]) -> None:
        """The vocabulary: a word in each line, whose number is the line's, counted from 0."""
        with Path(dictfile).open(encoding="utf-8") as lines:
            self._vocab = {line.strip(): number for number, line in enumerate(lines)}

    def get_words_only(self, line: str) -> list[int]:
        """The number of each word and mark, the number of words for unknown ones."""
        if not self._vocab:
            raise ValueError("IMDBDataset: expected load_resource(vocabulary) before any text")
        pieces = self._MARKS.split(line.lower().replace("<br />", " ").strip())
        return [self._vocab.get(piece, len(self._vocab)) for piece in pieces if piece not in ("", " ")]

    def get_words_and_label(self, line: str) -> tuple[list[int], list[int]]:
        """The same for what is before the last "|"; and the whole number after it."""
        text, _, label = line.rpartition("|")
        return self.get_words_only(text), [int(label)]


def _pairs(path: Path) -> Iterator[Any]:
    """The two columns of each line that has two."""
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            columns = line.strip("\n").split("\t")
            if len(columns) == 2:
                yield columns
