"""The built-in handler for text classification: texts in, the likeliest labels out."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdarchiver.manifest import TensorSpec
from pdserver.dtypes import BYTES
from pdserver.errors import ArchiveUnusable, InvalidRequest
from pdserver.formats.values import listed, shown
from pdserver.handlers.base import BaseHandler
from pdserver.handlers.context import Context
from pdserver.handlers.runtime import labels, ranking, sections
from pdserver.handlers.runtime.inputs import Place
from pdserver.handlers.runtime.parts import opened
from pdserver.handlers.runtime.rows import Array, Arrays, stack
from pdserver.handlers.text.tokens import Padding, Texts, TextSettings, Tokens, Word
from pdserver.types import Binary, Interface, Port

_COLUMNS: dict[str, tuple[Callable[[Tokens], Sequence[int]], Callable[[Padding], int]]] = {
    "input_ids": (lambda tokens: tokens.ids, lambda padding: padding.id),
    "token_type_ids": (lambda tokens: tokens.type_ids, lambda padding: padding.type_id),
    "attention_mask": (lambda tokens: [1] * len(tokens.ids), lambda padding: 0),
    "position_ids": (lambda tokens: range(len(tokens.ids)), lambda padding: 0),
}
"""What an input of this public name is made of, and filled up with."""
_BEYOND_EMBEDDING = re.compile(r"embedding\) expected >= 0 and < (\d+), but got")
"""What Paddle says of a number that is not one of an embedding's rows, such as a position."""
_ROWS_AT_A_TIME = 16
"""The batch size for explanations."""
_TEXT_NAMES = ("text", "data", "body")


class TextClassifier(BaseHandler):
    """For models with inputs [n, length] called `input_ids`, and perhaps `token_type_ids`, `attention_mask` and
    `position_ids`, whose first output is one number per class. A model's only input may have any name.

    A request is a text, or two as {"text": …, "text_pair": …}, or a JSON list of such. An answer is
    {label: probability}, the likeliest first, or a list of them.
    """

    settings: TextSettings
    """After `initialize`."""
    texts: Texts

    def initialize(self, context: Context) -> None:
        """Raises what BaseHandler raises; ArchiveUnusable for a model with other inputs and for a missing or damaged
        tokenizer, ConfigError for wrong settings."""
        super().initialize(context)
        directory = Path(context.system_properties["model_dir"])
        self.settings = sections.read(TextSettings, "text", context.model_yaml_config)
        self._fixed_length = self._check_inputs()
        self.texts = Texts(directory, self.settings, self._fixed_length)
        self._labels = labels.read(directory, None)

    def preprocess(self, data: list[dict[str, Any]]) -> Arrays:
        """The model's inputs, of shape [rows, length]."""
        rows: list[Tokens] = []
        places: list[Place] = []
        for row in data:
            try:
                many = several(row)
                found = [self.texts.encode(*texts(one)) for one in ([row] if many is None else many)]
                start = len(rows)
                rows += found
                places.append(start if many is None else slice(start, len(rows)))
            except InvalidRequest as error:
                places.append(error)
        self.places = places
        return self.tensors(rows)

    def inference(self, inputs: Arrays) -> Arrays:
        """The model's outputs, the first of which is a row for each text."""
        try:
            return self.run_rows(inputs, self.signature.outputs[0].name)
        except ValueError as error:
            self._check_length(inputs, str(error))
            raise

    def postprocess(self, outputs: Arrays) -> Sequence[dict[str, np.floating[Any]]]:
        """{label: probability} for each row, in descending order, of at most `top_k` classes."""
        chances = ranking.probabilities(next(iter(outputs.values())), self.settings.softmax)
        return ranking.likeliest(chances, self._labels, self.settings.top_k)

    def interface(self) -> Interface:
        """Texts, one a row; the probabilities of all classes."""
        classes = self.signature.outputs[0].shape[-1]
        chances = Port("probabilities", "float32", (-1, classes), self._labels.known)
        return Interface([Port("text", BYTES, (-1, 1))], [chances], batched=True, opaque=True)

    def handle_tensors(self, inputs: Arrays) -> Arrays:
        """The probabilities. Raises InvalidRequest for a row that is no text."""
        tokens = self.preprocess([{"body": _text(text)} for text in inputs["text"].ravel()])
        self.raise_first()
        outputs = self.inference(tokens)
        return {"probabilities": ranking.probabilities(next(iter(outputs.values())), self.settings.softmax)}

    def get_insights(self, tensor_data: Arrays, raw_data: Any, target: Any) -> list[dict[str, Any]]:
        """{"words": […], "importances": […]}: how much less probable the class is without each of the words."""
        text, pair = texts({"body": raw_data})
        tokens, words = self.texts.encode(text, pair), self.texts.words(text, pair)
        (whole,) = self._chances([tokens])
        index = self._labels.index(target, whole)
        without = [self._without(tokens, word) for word in words]
        batches = (without[start : start + _ROWS_AT_A_TIME] for start in range(0, len(without), _ROWS_AT_A_TIME))
        chances = [row[index] for batch in batches for row in self._chances(batch)]
        return [
            {
                "words": [word.text for word in words],
                "importances": [whole[index] - chance for chance in chances],
                "target": self._labels[index],
            }
        ]

    def tensors(self, rows: Sequence[Tokens]) -> Arrays:
        """The model's inputs for `rows`."""
        return {spec.name: self._tensor(spec, rows) for spec in self.signature.inputs} if rows else {}

    def _chances(self, rows: Sequence[Tokens]) -> NDArray[np.float32]:
        outputs = self.inference(self.tensors(rows))
        return ranking.probabilities(next(iter(outputs.values())), self.settings.softmax)

    def _check_length(self, inputs: Arrays, said: str) -> None:
        """Raises InvalidRequest when a text has more tokens than the model positions, by what Paddle `said`."""
        found = _BEYOND_EMBEDDING.search(said)
        longest = max(array.shape[1] for array in inputs.values())
        of_others = {below for name, below in self.batching.ids_below.items() if name != "position_ids"}
        if found is None or int(found[1]) >= longest or int(found[1]) in of_others:
            return
        raise InvalidRequest(
            f"the text has {longest} tokens, and the model takes {found[1]}: send a shorter one; with text: "
            f"{{max_length: {found[1]}}} in the model's config file, longer ones are cut"
        )

    def _without(self, tokens: Tokens, word: Word) -> Tokens:
        """The tokens without one word; if none is left, one token of padding, since models take no empty texts."""
        ids = tokens.ids[: word.start] + tokens.ids[word.stop :]
        type_ids = tokens.type_ids[: word.start] + tokens.type_ids[word.stop :]
        return Tokens(ids, type_ids) if ids else Tokens([self.texts.padding.id], [self.texts.padding.type_id])

    def _tensor(self, spec: TensorSpec, tokens: Sequence[Tokens]) -> Array:
        of, filling = _COLUMNS[_column(spec.name, len(self.signature.inputs))]
        rows, fill = [of(row) for row in tokens], filling(self.texts.padding)
        if self.settings.padding == "none" and self._fixed_length is None:
            return stack([_padded([row], self._length(len(row)), fill, spec.dtype) for row in rows])
        return _padded(rows, self._length(max(map(len, rows))), fill, spec.dtype)

    def _length(self, longest: int) -> int:
        if self._fixed_length is not None:
            return self._fixed_length
        multiple = self.settings.pad_to_multiple
        return -(-longest // multiple) * multiple

    def _check_inputs(self) -> int | None:
        """The only length that the model takes, or None if it takes any."""
        specs = self.signature.inputs
        for spec in specs:
            if _column(spec.name, len(specs)) not in _COLUMNS:
                raise ArchiveUnusable(
                    f'text_classifier does not know what the input "{spec.name}" takes; call it one of '
                    f"{', '.join(_COLUMNS)} in the model's config file, such as inputs: {{{spec.source}: input_ids}}"
                )
            if len(spec.shape) != 2 or not spec.dtype.startswith(("int", "float", "bool")):
                raise ArchiveUnusable(
                    f"text_classifier needs inputs [n, length] of numbers; this model's are {_list(specs)}"
                )
        lengths = {spec.shape[1] for spec in specs} - {-1}
        if len(lengths) > 1:
            raise ArchiveUnusable(f"text_classifier needs inputs of one length; this model's are {_list(specs)}")
        return lengths.pop() if lengths else None


def several(row: Any) -> list[Any] | None:
    """The requests in a JSON list of texts, or in a list `text` of an object; None for a request that is one text.

    Raises InvalidRequest for an empty list.
    """
    value = opened(row["body"]) if isinstance(row, dict) and row.keys() == {"body"} else row
    if isinstance(value, dict) and len(value) == 1:
        value = next((value[name] for name in _TEXT_NAMES if name in value), None)
    if not isinstance(value, list) or not all(isinstance(item, str | dict) for item in value):
        return None
    if not value:
        raise InvalidRequest("expected at least one text, got []")
    return value


def texts(row: Any) -> tuple[str, str | None]:
    """The text of a request, and the second one if it has two. Raises InvalidRequest when there is none.

    `row` is the request's parts by name, or, out of an envelope, any JSON value.
    """
    value = row["body"] if isinstance(row, dict) and row.keys() == {"body"} else row
    found = opened(value)
    value = found if isinstance(found, dict) else value
    if isinstance(value, dict):
        found = next((value[name] for name in _TEXT_NAMES if name in value), None)
        pair = value.get("text_pair")
    else:
        found, pair = value, None
    if found is None:
        got = listed(value) if isinstance(value, dict) else "null"
        raise InvalidRequest(f'expected a text, or {{"text": …}} with or without "text_pair", got {got}')
    return _text(found), None if pair is None else _text(pair)


def _text(value: Any) -> str:
    try:
        text = value.decode() if isinstance(value, Binary) else value
        if isinstance(text, str):
            return text
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"expected a text, got {len(value)} bytes that are not UTF-8: {error.reason}") from None
    raise InvalidRequest(f"expected a text, got {shown(value)}")


def _column(name: str, count: int) -> str:
    return name if name in _COLUMNS or count > 1 else "input_ids"


def _padded(rows: Sequence[Sequence[int]], length: int, fill: int, dtype: str) -> Array:
    array = np.full((len(rows), length), fill, dtype)
    for out, row in zip(array, rows, strict=True):
        out[: len(row)] = row
    return array


def _list(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(map(str, specs))
