"""Pipelines that can't work, each with its error: the place, what would be right."""

from __future__ import annotations

import pytest

from pdarchiver.errors import InvalidPipeline
from tests.pdarchiver.pipeline.base import DETECT, FIND, MAP, READ, TOP, X, checked, spoilt

# What the good pipeline says; what this one says instead; its error.
BAD = [
    (TOP, "inputs: {image: bytes, mask: bytes}", "inputs.mask: nothing takes it: use it in a node, or leave it out"),
    (
        TOP,
        TOP + "\nbatched: true",
        "inputs.image: is bytes; with `batched: true`, each value is a tensor with the batch in front",
    ),
    (
        TOP,
        TOP + "\ncontract: paddlex/orc",
        (
            "contract: 'paddlex/orc' is not known (did you mean 'paddlex/ocr'?); there are paddlex/ocr, "
            "paddlex/image-classification, paddlex/object-detection, paddlex/semantic-segmentation, "
            "paddlex/layout-parsing, paddle-serving/pipeline"
        ),
    ),
    (
        TOP,
        TOP + "\ncontract: paddlex/ocr",
        "outputs: clients of paddlex/ocr get the output `result`, which is JSON: name one; there are texts, boxes",
    ),
    (
        TOP,
        "inputs: {image: bytes, file: bytes}\ncontract: paddlex/ocr",
        "inputs: clients of paddlex/ocr send one file: name one input `image` (or `file`), of bytes",
    ),
    (
        TOP,
        "inputs: {image: text}\ncontract: paddlex/ocr",
        "inputs.image: is text; clients of paddlex/ocr send bytes",
    ),
    (
        TOP,
        "inputs: {image: bytes, topk: json}\ncontract: paddlex/ocr",
        "inputs.topk: clients of paddlex/ocr send no 'topk': their other fields are JSON in `parameters`",
    ),
    (TOP, TOP + "\nsamples: [{img: a.png}]", "samples[0].img: the pipeline has no input 'img' (did you mean 'image'?)"),
    (TOP, TOP + "\nsamples: [{}]", "samples[0]: no file for the input 'image'"),
    ("read.text", "reed.text", "outputs.texts: no node 'reed' (did you mean 'read'?)"),
    (
        "read.text",
        "read.texts",
        "outputs.texts: the node 'read' has no output 'texts' (did you mean 'text'?); it has text",
    ),
    ("read.text", "read", "outputs.texts: 'read' is a node: say which output, as in read.OUTPUT"),
    ("read.text", "imge", "outputs.texts: the pipeline has no input 'imge' (did you mean 'image'?); it has image"),
    (
        "read.text",
        "[read.text, read.text2]",
        "outputs.texts[1]: the node 'read' has no output 'text2' (did you mean 'text'?); it has text",
    ),
    (
        "read.text",
        "read.$positons",
        "outputs.texts: no node has '$positons' (did you mean '$positions'?); there are $positions and $failures",
    ),
    ("read.text", "find.$positions", "outputs.texts: the node 'find' has no $positions, because it has no `each`"),
    (
        "read.text",
        "find.$failures",
        "outputs.texts: the node 'find' has no $failures, because it has no `on_error: skip`",
    ),
    (
        "texts: read.text",
        "texts: find.crops",
        "nodes.read: nothing takes from it: use an output of it, or leave it out",
    ),
    (X, "{x: decod.tensor}", "nodes.detect.inputs.x: no node 'decod' (did you mean 'decode'?)"),
    (
        X,
        "{x: decode.tensr}",
        (
            "nodes.detect.inputs.x: the node 'decode' has no output 'tensr' (did you mean 'tensor'?); it has "
            "tensor, image, turned"
        ),
    ),
    (
        X,
        "{x: {from: decode.tensor, optional: true}}",
        "nodes.detect.inputs.x: a model can't run without one of its inputs: leave `optional` out",
    ),
    (X, "{x: decode}", "nodes.detect.inputs.x: 'decode' is a node: say which output, as in decode.OUTPUT"),
    (
        X,
        "{x: [decode.tensor, image]}",
        "nodes.detect.inputs.x[1]: is bytes, and the model takes float32[-1, 3, -1, -1]",
    ),
    (X, "{y: decode.tensor}", "nodes.detect.inputs.y: the model has no input 'y'; it has x"),
    (X, "{xx: decode.tensor}", "nodes.detect.inputs.xx: the model has no input 'xx' (did you mean 'x'?); it has x"),
    (X, "{x: decode.tensor, y: image}", "nodes.detect.inputs.y: the model has no input 'y'; it has x"),
    (X, "{}", "nodes.detect.inputs: the model's input 'x' is missing: it takes x"),
    (X, "{x: decode.image}", "nodes.detect.inputs.x: is uint8[-1, -1, 3], and the model takes float32[-1, 3, -1, -1]"),
    (X, "{x: image}", "nodes.detect.inputs.x: is bytes, and the model takes float32[-1, 3, -1, -1]"),
    (
        "list of float32[3, 48, -1]",
        "list of float32[3, 32, -1]",
        "nodes.read.nodes.recognise.inputs.x: is float32[3, 32, -1], and the model takes float32[-1, 3, 48, -1]",
    ),
    (
        "list of float32[3, 48, -1]",
        "list of bytes",
        "nodes.read.nodes.recognise.inputs.x: is bytes, and the model takes float32[-1, 3, 48, -1]",
    ),
    (
        "list of float32[3, 48, -1]",
        "json",
        "nodes.read.inputs.crop: `each` goes through a list, or through a tensor's rows, and this is json",
    ),
    (
        "list of float32[3, 48, -1]",
        "float32[]",
        "nodes.read.inputs.crop: `each` goes through a list, or through a tensor's rows, and this is float32[]",
    ),
    (
        "list of float32[3, 48, -1]",
        "int32[-1, 3, 48, 100]",
        "nodes.read.nodes.recognise.inputs.x: is int32[3, 48, 100], and the model takes float32[-1, 3, 48, -1]",
    ),
    (
        "inputs: {x: crop}",
        "inputs: {x: crops}",
        "nodes.read.nodes.recognise.inputs.x: the graph has no input 'crops'; it has crop (did you mean 'crop'?)",
    ),
    (
        "{p: recognise.p}",
        "{p: find.crops}",
        (
            "nodes.read.nodes.words.inputs.p: no node 'find'; the nodes of nodes.read see each other and its inputs "
            "only: add one to its `inputs`"
        ),
    ),
    (
        "{p: recognise.p}",
        "{p: image}",
        (
            "nodes.read.nodes.words.inputs.p: the graph has no input 'image'; it has crop; the nodes of nodes.read see "
            "each other and its inputs only: add one to its `inputs`"
        ),
    ),
    (
        "{p: recognise.p}",
        "{p: crop}",
        "nodes.read.nodes.recognise: nothing takes from it: use an output of it, or leave it out",
    ),
    (
        "{text: words.text}",
        "{text: recognise.p}",
        "nodes.read.nodes.words: nothing takes from it: use an output of it, or leave it out",
    ),
    (MAP, "{image: decode.image}", "nodes.detect: nothing takes from it: use an output of it, or leave it out"),
    (
        "    each: crop\n",
        "",
        (
            "nodes.read.nodes.recognise.inputs.x: is list of float32[3, 48, -1], and the model takes float32[-1, "
            "3, 48, -1]; `each` runs the node for each item"
        ),
    ),
    (
        "each: crop\n",
        "each: crops\n",
        "nodes.read.each: the node has no input 'crops' (did you mean 'crop'?); it has crop",
    ),
    ("each: crop\n", "each: [crop, crop]\n", "nodes.read.each[1]: 'crop' is given twice"),
    (
        "inputs: {crop: find.crops}",
        "inputs: {crop: {from: find.crops, optional: true}}",
        "nodes.read.each: the input 'crop' is optional, and `each` needs it",
    ),
    (
        "inputs: {crop: find.crops}",
        "inputs: {crop: find.crops, image: image}",
        "nodes.read.inputs.image: nothing takes it: use it in a node, or leave it out",
    ),
    (
        "each: crop\n    inputs: {crop: find.crops}",
        "each: [crop, image]\n    inputs: {crop: find.crops, image: image}",
        "nodes.read.inputs.image: `each` goes through a list, or through a tensor's rows, and this is bytes",
    ),
    (
        "outputs: [text]",
        "outputs: {text: list}",
        "nodes.read: gives a list 'text' for each item, and there are no lists of lists: give json",
    ),
    (
        READ,
        READ + "    when: decode.turnd\n",
        (
            "nodes.read.when: the node 'decode' has no output 'turnd' (did you mean 'turned'?); it has tensor, "
            "image, turned"
        ),
    ),
    (
        READ,
        READ + "    when: decode.image\n",
        (
            "nodes.read.when: is uint8[-1, -1, 3], which is neither true nor false: a condition takes one number,"
            " json, text or a list"
        ),
    ),
    (
        READ,
        READ + "    repeat: {while: more, at_most: 3}\n",
        "nodes.read.repeat.while: the node has no output 'more'; it has text",
    ),
    (READ, READ + "    repeat: {while: text, at_most: 0}\n", "nodes.read.repeat.at_most: 0: expected 1 to 1000"),
    (READ, READ + "    repeat: {while: text, at_most: 1001}\n", "nodes.read.repeat.at_most: 1001: expected 1 to 1000"),
    (
        READ,
        READ + "    repeat: {while: text, at_most: 3, carry: {crp: text}}\n",
        "nodes.read.repeat.carry.crp: the node has no input 'crp' (did you mean 'crop'?); it has crop",
    ),
    (
        READ,
        READ + "    repeat: {while: text, at_most: 3, carry: {crop: txt}}\n",
        "nodes.read.repeat.carry.crop: the node has no output 'txt' (did you mean 'text'?); it has text",
    ),
    (
        DETECT,
        DETECT + "    repeat: {while: map, at_most: 3, carry: {x: map}}\n",
        "nodes.detect.repeat.carry.x: is float32[-1, 1, -1, -1], and the model takes float32[-1, 3, -1, -1]",
    ),
    (
        FIND,
        FIND + "    repeat: {while: boxes, at_most: 3}\n",
        (
            "nodes.find.repeat.while: is float32[-1, 4, 2], which is neither true nor false: a condition takes "
            "one number, json, text or a list"
        ),
    ),
    (READ, READ + "    retry: -1\n", "nodes.read.retry: -1: expected 0 to 100"),
    (READ, READ + "    retry: 101\n", "nodes.read.retry: 101: expected 0 to 100"),
    (READ, READ + "    timeout: 1441 m\n", "nodes.read.timeout: 86460 s: expected at most 86400 s"),
    (
        READ,
        READ + "    settings: {minWorkers: 2}\n",
        "nodes.read.settings: settings are for a process, which the whole has with `fuse: yes` only",
    ),
    (
        DETECT,
        "    model: det\n    settings: {minWorkers: 2}\n",
        "nodes.detect.settings: a model of the store has its own settings: change them there",
    ),
    (
        DETECT,
        DETECT + "    opaque: true\n",
        (
            "nodes.detect.inputs.x: is float32[1, 3, -1, -1]; a model with `opaque: true` takes bytes, text and json "
            "only"
        ),
    ),
]


@pytest.mark.parametrize(("old", "new", "error"), BAD)
def test_the_error_says_where_and_what(old: str, new: str, error: str) -> None:
    with pytest.raises(InvalidPipeline) as raised:
        checked(spoilt(old, new))
    assert str(raised.value) == error
