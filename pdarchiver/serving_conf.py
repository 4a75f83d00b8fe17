"""Reads what a Paddle Serving folder says of its model: `serving_server_conf.prototxt`, or its `.stream.prototxt`.

Both hold a message `GeneralModelConfig` (general_model_config.proto of Paddle Serving), as text and in the wire format.
A variable's `shape` there has no batch, and Paddle Serving's converter leaves out all lengths that are open.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pdarchiver import messages
from pdarchiver.errors import PackingError
from pdarchiver.manifest import Signature, TensorSpec

TEXT_CONF, BINARY_CONF = "serving_server_conf.prototxt", "serving_server_conf.stream.prototxt"
CLIENT_CONFS = ("serving_client_conf.prototxt", "serving_client_conf.stream.prototxt")
TYPES = {
    0: "int64",
    1: "float32",
    2: "int32",
    3: "float64",
    4: "int16",
    5: "float16",
    6: "bfloat16",
    7: "uint8",
    8: "int8",
    9: "bool",
    10: "complex64",
    11: "complex128",
    20: "string",
}
"""By the numbers of `feed_type` and `fetch_type`."""
UNKNOWN_TYPE = -1
"""What the converter writes for a type that it does not know."""
_TEXT_OR_COMMENT = re.compile(r""""(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|#[^\n]*""")
_VARIABLE = re.compile(r"\b(feed_var|fetch_var)\b")


@dataclass(frozen=True)
class ServingConf:
    """One folder's description of its model."""

    path: Path
    inputs: Mapping[str, str]
    """The model's own name → public name."""
    outputs: Mapping[str, str]
    message: Any
    """The whole `GeneralModelConfig`."""
    places: tuple[str, ...]
    """The text of each `feed_var` with the number of the line before it; none if the lines can't be told."""

    def check(self, signature: Signature) -> None:
        """Compare the type and shape of each feed variable with the model's. Raises PackingError with the line."""
        specs = {spec.source: spec for spec in signature.inputs}
        for i, feed in enumerate(self.message.feed_var):
            if spec := specs.get(feed.name):
                for field, problem in _problems(feed, spec):
                    raise PackingError(f"{self.path.name}: {self._line(i, field)}{problem}")

    def _line(self, i: int, field: str) -> str:
        if not self.places:
            return ""
        found = re.search(rf"\b{field}\b", self.places[i])
        before = self.places[i][: found.start() if found else 0].count("\n")
        return f"line {before + 1}: "


def find(folder: Path) -> Path | None:
    """The description in a folder. The text goes first, since that is the one that people edit."""
    return next((path for name in (TEXT_CONF, BINARY_CONF) if (path := folder / name).is_file()), None)


def read(path: Path) -> ServingConf:
    """Raises PackingError for what is no such description."""
    places: tuple[str, ...] = ()
    try:
        if path.name == BINARY_CONF:
            message = messages.decode("GeneralModelConfig", path.read_bytes())
        else:
            text = path.read_text("utf-8")
            message = messages.decode_text("GeneralModelConfig", text)
            places = tuple(_places_of_feeds(text))
        inputs, outputs = _aliases(message.feed_var), _aliases(message.fetch_var)
    except ValueError as error:
        raise PackingError(f"{path}: {error}") from None
    return ServingConf(path, inputs, outputs, message, places if len(places) == len(inputs) else ())


def _aliases(variables: Iterable[Any]) -> dict[str, str]:
    """name → alias_name of each `feed_var` or `fetch_var`. One without an alias keeps its name."""
    aliases = {variable.name: variable.alias_name or variable.name for variable in variables}
    if "" in aliases:
        raise ValueError("a feed_var or fetch_var without a name")
    return aliases


def _places_of_feeds(text: str) -> Iterator[str]:
    """For each `feed_var`, as many line ends as stand before it, and then its text without what is in quotes."""
    plain = _TEXT_OR_COMMENT.sub(lambda found: " " * len(found[0]), text)
    starts = [(found.start(), found[0]) for found in _VARIABLE.finditer(plain)]
    ends = [start for start, _ in starts[1:]] + [len(plain)]
    for (start, kind), end in zip(starts, ends, strict=True):
        if kind == "feed_var":
            yield "\n" * plain.count("\n", 0, start) + plain[start:end]


def _problems(feed: Any, spec: TensorSpec) -> Iterator[tuple[str, str]]:
    """What does not fit the model, each with its field."""
    number = feed.feed_type
    if feed.HasField("feed_type") and number != UNKNOWN_TYPE and TYPES.get(number) != spec.dtype:
        wanted = next(known for known, name in TYPES.items() if name == spec.dtype)
        why = " (text is read by a handler of yours: docs/handlers.md)" if TYPES.get(number) == "string" else ""
        yield (
            "feed_type",
            f"feed_type: {number} is {TYPES.get(number, 'no type')}, but the model's input {feed.name!r} is "
            f"{spec.dtype}: write {wanted}{why}",
        )
    shape = tuple(feed.shape)
    if shape and not feed.is_lod_tensor and not _fits(shape, spec.shape):
        yield (
            "shape",
            f"shape {list(shape)} does not fit the model's input {feed.name!r}, whose shape is {list(spec.shape)} "
            "with the batch first: write the lengths after the batch, without those that are -1",
        )


def _fits(declared: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Whether it is the model's shape: with or without the batch, with or without the lengths that are open."""
    for form in (shape, shape[1:]):
        if declared == tuple(length for length in form if length >= 0):
            return True
        if len(declared) == len(form) and all(
            wanted == length or -1 in (wanted, length) for wanted, length in zip(declared, form, strict=True)
        ):
            return True
    return False
