"""Texts in, what they are and how surely out. The handler has the tokenizer; the model has only numbers.

Requests with tensors, such as those of /GeneralModelService/inference, bring the three inputs themselves.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pdserver.errors import InvalidRequest
from pdserver.handlers.base import Arrays, BaseHandler
from pdserver.handlers.context import Context

LABELS = ("bad", "good")
LONGEST = 64


class ReviewHandler(BaseHandler):
    """`{"text": "这部电影很好看"}` → `{"label": "good", "prob": 0.99}`."""

    def initialize(self, context: Context) -> None:
        super().initialize(context)
        words = Path("vocab.txt").read_text("utf-8").splitlines()  # a worker's working directory is its model's
        self.ids = {word: number for number, word in enumerate(words)}

    def preprocess(self, data: list[dict[str, Any]]) -> Arrays:
        """The three inputs, int64 of shape [texts, length of the longest]; `places` says which text is which row."""
        rows: list[list[int]] = []
        places: list[int | InvalidRequest] = []
        for request in data:
            try:
                rows.append(self._numbers(request.get("body", request)))
            except InvalidRequest as error:
                places.append(error)
            else:
                places.append(len(rows) - 1)
        self.places = places
        numbers = np.zeros((len(rows), max(map(len, rows), default=1)), np.int64)
        mask = np.zeros_like(numbers)
        for i, row in enumerate(rows):
            numbers[i, : len(row)], mask[i, : len(row)] = row, 1
        return {"input_ids": numbers, "token_type_ids": np.zeros_like(numbers), "attention_mask": mask}

    def postprocess(self, outputs: Arrays) -> list[dict[str, Any]]:
        return [{"label": LABELS[int(row.argmax())], "prob": float(row.max())} for row in outputs["prediction"]]

    def handle_tensors(self, inputs: Arrays) -> Arrays:
        return super().handle_tensors(inputs)

    def _numbers(self, request: Any) -> list[int]:
        """A text's numbers: one for each character, between those of [CLS] and [SEP]. Raises InvalidRequest."""
        if isinstance(request, bytes | bytearray):  # as from curl -d alone, which does not say that it sends JSON
            raise InvalidRequest('say what you send: Content-Type: application/json with {"text": "…"}, or text/plain')
        text = request.get("text") if isinstance(request, dict) else request
        if isinstance(text, bytes | bytearray):
            text = text.decode(errors="replace")
        if not isinstance(text, str) or not text:
            raise InvalidRequest('expected a text: {"text": "…"}')
        unknown = self.ids["[UNK]"]
        characters = [self.ids.get(character, unknown) for character in text[: LONGEST - 2]]
        return [self.ids["[CLS]"], *characters, self.ids["[SEP]"]]
