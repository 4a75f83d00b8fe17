"""Texts → the inputs of BERT and ERNIE, through the `tokenizers` library."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pdserver.handlers.reader.checks import check, is_whole

_SPECIAL = ("[PAD]", "[CLS]", "[SEP]", "[MASK]")


class ChineseBertReader:
    """`args` has `vocab_file`, with a token in each line, and perhaps `max_seq_len`, by default 20.

    Raises LoadFailed where the library is missing, ArchiveUnusable for what is no vocabulary.
    """

    def __init__(self, args: Mapping[str, Any] | None = None) -> None:
        # Here, so that everything of this package can be imported without the library.
        from pdserver.handlers.text.tokens import wordpiece

        args = args or {}
        file = args.get("vocab_file")
        found = file is not None and Path(file).is_file()
        check(found, self, "args['vocab_file']", file, "the vocabulary of the model, vocab.txt; pack it with it")
        self.max_seq_len: int = args.get("max_seq_len", 20)
        check(is_whole(self.max_seq_len, least=3), self, "args['max_seq_len']", self.max_seq_len, "3 or more")
        self._tokenizer = wordpiece(Path(str(file)), lowercase=True)
        self._tokenizer.encode_special_tokens = True  # what a client calls [MASK] is text
        self.vocab = self._tokenizer.get_vocab()
        for token in _SPECIAL:
            check(token in self.vocab, self, "args['vocab_file']", file, f"a vocabulary that has {token}")
        self.feed_keys = ["input_ids", "position_ids", "segment_ids", "input_mask"]

    def set_feed_keys(self, keys: list[str]) -> None:
        """Other names for what `process` returns, in its order."""
        self.feed_keys = keys

    def get_feed_keys(self) -> list[str]:
        return self.feed_keys

    def process(self, line: str | bytes) -> dict[str, list[int]]:
        """Four lists of `max_seq_len` numbers: tokens, their places, segments, and 1 where a token is. The first token
        is [CLS]; there is no [SEP], and there is room for one less than `max_seq_len`, as there."""
        text = line if isinstance(line, str) else line.decode("utf-8", "ignore")
        words = self._tokenizer.encode(text, add_special_tokens=False).ids
        tokens = [self.vocab["[CLS]"], *words[: self.max_seq_len - 2]]
        padding = [self.vocab["[PAD]"]] * (self.max_seq_len - len(tokens))
        there = len(tokens)
        rows = (tokens + padding, [*range(there), *padding], [0] * there + padding, [1] * there + [0] * len(padding))
        return dict(zip(self.feed_keys, rows, strict=True))
