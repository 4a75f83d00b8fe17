"""What a pipeline.yaml says becomes a graph, in the order in which nodes run."""

from __future__ import annotations

from pdarchiver.pipeline.graph import (
    ANY,
    Condition,
    Graph,
    ModelBody,
    Pipeline,
    PythonBody,
    Ref,
    Repeat,
    Source,
    Type,
)
from pdarchiver.pipeline.reading import read

OCR = """
inputs: {image: bytes}
outputs:
  texts: [read.text, find.boxes]
  boxes: find.boxes
contract: paddlex/ocr
samples: [{image: page.png}]
nodes:
  read:
    each: crop
    inputs: {crop: find.crops}
    on_error: skip
    nodes:
      recognise:
        model: rec
        version: "1.0"
        inputs: {x: crop}
        timeout: 500 ms
        retry: 1
        repeat: {while: more, at_most: 5, carry: {x: y}}
    outputs: {text: recognise.text}
  find:
    python: steps.py:Find
    inputs: {map: detect.map, image: decode.image, hint: {from: [detect.hint, decode.hint], optional: true}}
    outputs: {crops: list, boxes: "float32[-1, 4, 2]"}
    unless: detect.empty
  detect:
    archive: models/det.pdar
    inputs: {x: decode.tensor}
  decode:
    python: steps.py
    inputs: {image: image}
    outputs: [tensor, image, hint]
    settings: {minWorkers: 2}
"""


def of(text: str) -> Pipeline:
    return read(text.encode(), "pipeline.yaml")


def test_every_key_is_read() -> None:
    pipeline = of(OCR)
    assert (pipeline.contract, pipeline.batched, pipeline.samples) == ("paddlex/ocr", False, ({"image": "page.png"},))
    graph = pipeline.graph
    assert graph.inputs == {"image": Type("bytes")}
    assert graph.outputs["texts"] == Source((Ref("read", "text"), Ref("find", "boxes")))
    decode, detect, find, read_ = graph.nodes.values()
    assert (decode.name, decode.body, decode.settings) == ("decode", PythonBody("steps.py"), {"minWorkers": 2})
    assert decode.outputs == {"tensor": ANY, "image": ANY, "hint": ANY}
    assert (detect.name, detect.body, detect.outputs) == ("detect", ModelBody(archive="models/det.pdar"), {})
    assert find.inputs["hint"] == Source((Ref("detect", "hint"), Ref("decode", "hint")), optional=True)
    assert find.outputs == {"crops": Type("list"), "boxes": Type("tensor", "float32", (-1, 4, 2))}
    assert find.when == Condition(Ref("detect", "empty"), holds=False)
    assert (read_.each, read_.on_error, read_.outputs) == (("crop",), "skip", {"text": ANY})
    assert isinstance(read_.body, Graph)
    recognise = read_.body.nodes["recognise"]
    assert recognise.inputs == {"x": Source((Ref("", "crop"),))}
    assert recognise.body == ModelBody("rec", "1.0")
    assert (recognise.timeout_seconds, recognise.retry) == (0.5, 1)
    assert recognise.repeat == Repeat("more", 5, {"x": "y"})
    assert [path for path, _ in graph.walk()] == ["decode", "detect", "find", "read", "read/recognise"]


def test_fused_nodes_become_one_with_what_goes_in_and_out() -> None:
    graph = of(OCR + "fuse: [[find, detect]]").graph
    assert list(graph.nodes) == ["decode", "find+detect", "read"]
    fused = graph.nodes["find+detect"]
    assert {name: source.refs for name, source in fused.inputs.items()} == {
        "decode.tensor": (Ref("decode", "tensor"),),
        "decode.image": (Ref("decode", "image"),),
        "decode.hint": (Ref("decode", "hint"),),
    }
    assert all(source.optional for source in fused.inputs.values())
    assert list(fused.outputs) == ["find.boxes", "find.crops"]
    assert isinstance(fused.body, Graph)
    assert fused.body.fuse == "yes"
    assert list(fused.body.nodes) == ["detect", "find"]
    assert fused.body.nodes["detect"].inputs == {"x": Source((Ref("", "decode.tensor"),))}
    assert fused.body.nodes["find"].when == Condition(Ref("detect", "empty"), holds=False)
    assert graph.nodes["read"].inputs == {"crop": Source((Ref("find+detect", "find.crops"),))}
    assert graph.outputs["boxes"] == Source((Ref("find+detect", "find.boxes"),))


def test_no_and_yes_are_what_yaml_makes_of_them() -> None:
    assert [of(OCR + f"fuse: {word}").graph.fuse for word in ("no", "yes", "auto", "'yes'")] == [
        *("no", "yes", "auto", "yes")
    ]
