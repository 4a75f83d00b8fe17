"""The steps around the sentiment example's model: a text becomes tokens, logits become labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pdserver.errors import InvalidRequest
from pdserver.handlers.text.tokens import Texts, TextSettings

LABELS = ("negative", "positive")
LONGEST = 64
MULTIPLE = 16
"""Texts are filled up to a multiple of so many tokens, so that those of about the same length share a run."""

Row = dict[str, Any]


class Tokenize:
    """text → input_ids, token_type_ids: int64 [1, tokens], filled up with [PAD], which is 0."""

    def initialize(self, context: Any) -> None:
        self.texts = Texts(Path(), TextSettings(max_length=LONGEST), None)  # vocab.txt: where the archive is

    def handle(self, data: list[Row], context: Any) -> list[Row | Exception]:
        return [self._one(row["text"]) for row in data]

    def _one(self, text: str) -> Row | Exception:
        try:
            tokens = self.texts.encode(text)
        except InvalidRequest as error:  # it fails alone
            return error
        rows = np.zeros((2, 1, -(-len(tokens.ids) // MULTIPLE) * MULTIPLE), np.int64)
        rows[0, 0, : len(tokens.ids)] = tokens.ids
        rows[1, 0, : len(tokens.ids)] = tokens.type_ids
        return {"input_ids": rows[0], "token_type_ids": rows[1]}


class Label:
    """logits float32 [1, 2] → sentiment {"label": …, "probabilities": {label: …}}."""

    def handle(self, data: list[Row], context: Any) -> list[Row]:
        return [self._one(row["logits"][0]) for row in data]

    def _one(self, logits: Any) -> Row:
        chances = np.exp(logits - logits.max())
        chances /= chances.sum()
        found = dict(zip(LABELS, chances.round(4).tolist(), strict=True))
        return {"sentiment": {"label": LABELS[int(logits.argmax())], "probabilities": found}}
