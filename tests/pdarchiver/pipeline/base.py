"""A good pipeline, which the tests spoil in one place each."""

from __future__ import annotations

from pdarchiver.pipeline.checks import Sides, output_types
from pdarchiver.pipeline.graph import ModelBody, Type
from pdarchiver.pipeline.reading import read
from pdarchiver.pipeline.types import parse

BASE = """\
inputs: {image: bytes}
outputs: {texts: read.text, boxes: find.boxes}
nodes:
  decode:
    python: steps.py:Decode
    inputs: {image: image}
    outputs: {tensor: "float32[1, 3, -1, -1]", image: "uint8[-1, -1, 3]", turned: json}
  detect:
    archive: det.pdar
    inputs: {x: decode.tensor}
  find:
    python: steps.py:Find
    inputs: {map: detect.map, image: decode.image}
    outputs: {crops: "list of float32[3, 48, -1]", boxes: "float32[-1, 4, 2]"}
  read:
    each: crop
    inputs: {crop: find.crops}
    on_error: skip
    nodes:
      recognise: {archive: rec.pdar, inputs: {x: crop}}
      words: {python: "steps.py:words", inputs: {p: recognise.p}, outputs: [text]}
    outputs: {text: words.text}
"""
# Lines of it that many tests change.
TOP = "inputs: {image: bytes}"
DETECT = "    archive: det.pdar\n"
FIND = "    python: steps.py:Find\n"
READ = "    on_error: skip\n"
X = "{x: decode.tensor}"
MAP = "{map: detect.map, image: decode.image}"
MODELS = {
    "det.pdar": ({"x": "float32[-1, 3, -1, -1]"}, {"map": "float32[-1, 1, -1, -1]"}),
    "rec.pdar": ({"x": "float32[-1, 3, 48, -1]"}, {"p": "float32[-1, -1, 97]"}),
}


def signature(path: str, body: ModelBody) -> Sides | None:
    """Of the models in BASE; nothing is known of others."""
    if body.archive not in MODELS:
        return None
    inputs, outputs = ({name: parse(text) for name, text in side.items()} for side in MODELS[body.archive])
    return Sides(inputs, outputs)


def spoilt(old: str, new: str) -> str:
    assert old in BASE
    return BASE.replace(old, new, 1)


def checked(text: str) -> dict[str, Type]:
    """What a good pipeline gives."""
    return output_types(read(text.encode(), "p.yaml"), signature)
