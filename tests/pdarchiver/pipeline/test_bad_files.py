"""Files that are no pipelines, each with its error: the file, the place, what would be right."""

from __future__ import annotations

import pytest

from pdarchiver.errors import InvalidPipeline
from pdarchiver.pipeline.reading import read
from tests.pdarchiver.pipeline.base import BASE, DETECT, FIND, MAP, READ, TOP, X, spoilt

# What the good pipeline says; what this one says instead; its error.
BAD = [
    (BASE, "", "p.yaml: expected a mapping (key: value), found nothing"),
    (BASE, "[]", "p.yaml: expected a mapping (key: value), found an empty list"),
    (BASE, "inputs: {a: bytes", "p.yaml:1: expected ',' or '}', but got '<stream end>'"),
    (BASE, "a: 1\na: 2", "p.yaml:2: key 'a' is given twice"),
    (BASE, "a: &a 1\nb: *a", "p.yaml:2: aliases (*name) are not accepted: write the value out"),
    (
        BASE,
        "x: !!python/object:os.system {}",
        "p.yaml:1: could not determine a constructor for the tag 'tag:yaml.org,2002:python/object:os.system'",
    ),
    (
        BASE,
        "inputs: {a: float32[1, 2]}",
        (
            "p.yaml:1: expected ',' or '}', but got '[': inside { }, a type with lengths needs quotes, as in {x: "
            '"float32[1, 3]"}'
        ),
    ),
    (
        TOP,
        "input: {image: bytes}",
        (
            "p.yaml: input: unknown key (did you mean 'inputs'?); there are batched, contract, fuse, inputs, "
            "nodes, outputs, samples"
        ),
    ),
    (
        TOP,
        TOP + "\nsampels: []",
        (
            "p.yaml: sampels: unknown key (did you mean 'samples'?); there are batched, contract, fuse, inputs, "
            "nodes, outputs, samples"
        ),
    ),
    (TOP, TOP + "\nyes: 1", "p.yaml: the key true is not text; put it in quotes"),
    (TOP, "", "p.yaml: inputs: missing: say what clients send, such as image: bytes"),
    (TOP, "inputs: {}", "p.yaml: inputs: expected at least one input, such as image: bytes"),
    (TOP, "inputs: [image]", "p.yaml: inputs: expected a mapping (key: value), found a list"),
    (
        TOP,
        "inputs: {image: byte}",
        (
            "p.yaml: inputs.image: 'byte' is no type (did you mean 'bytes'?): expected bytes, text, json, any, "
            "list, list of TYPE, a tensor's dtype or dtype[lengths]"
        ),
    ),
    (
        TOP,
        "inputs: {image: 'float31[1]'}",
        (
            "p.yaml: inputs.image: 'float31[1]' is no type (did you mean 'float32'?): expected bytes, text, json,"
            " any, list, list of TYPE, a tensor's dtype or dtype[lengths]"
        ),
    ),
    (
        TOP,
        "inputs: {image: 'float32[1, x]'}",
        (
            "p.yaml: inputs.image: 'float32[1, x]': expected at most 32 lengths, each a whole number, or -1 for "
            "any length"
        ),
    ),
    (
        TOP,
        "inputs: {image: 'float32[-2]'}",
        ("p.yaml: inputs.image: 'float32[-2]': expected at most 32 lengths, each a whole number, or -1 for any length"),
    ),
    (
        TOP,
        "inputs: {image: list of list of bytes}",
        (
            "p.yaml: inputs.image: 'list of list of bytes': there are no lists of lists; put the items into one "
            "list, or give json"
        ),
    ),
    (
        TOP,
        "inputs: {image: list bytes}",
        "p.yaml: inputs.image: 'list bytes' is no type: expected list, or list of TYPE",
    ),
    (TOP, "inputs: {image: 3}", "p.yaml: inputs.image: expected a type, such as bytes or float32[-1, 3], found 3"),
    (TOP, "inputs: {image: }", "p.yaml: inputs.image: expected a type, such as bytes or float32[-1, 3], found nothing"),
    (
        TOP,
        "inputs: {image: [bytes]}",
        "p.yaml: inputs.image: expected a type, such as bytes or float32[-1, 3], found a list",
    ),
    (
        TOP,
        "inputs: {$image: bytes}",
        "p.yaml: inputs.$image: '$image' can't be an input's name: names that begin with $ are reserved",
    ),
    (
        TOP,
        "inputs: {'my image': bytes}",
        (
            "p.yaml: inputs.my image: 'my image' can't be an input's name: expected at most 64 letters, digits, _"
            " and -, no - in front"
        ),
    ),
    (TOP, TOP + "\nbatched: 1", "p.yaml: batched: expected true or false, found 1"),
    (TOP, TOP + "\ncontract: 3", "p.yaml: contract: expected text, found the number 3: put it in quotes"),
    (
        TOP,
        TOP + "\nsamples: {image: a.png}",
        "p.yaml: samples: expected a list of requests, such as [{image: page.png}], found a mapping",
    ),
    (
        TOP,
        TOP + "\nsamples: [{image: ../a.png}]",
        (
            "p.yaml: samples[0].image: '../a.png' has a component that is empty, '.' or '..'; name a file beside "
            "the pipeline's file"
        ),
    ),
    (
        "outputs: {texts: read.text, boxes: find.boxes}\n",
        "",
        "p.yaml: outputs: missing: say what it gives, such as text: read.text",
    ),
    (
        "{texts: read.text, boxes: find.boxes}",
        "{}",
        "p.yaml: outputs: expected at least one output, such as text: read.text",
    ),
    ("read.text", "[]", "p.yaml: outputs.texts: expected at least one reference, such as decode.image"),
    ("read.text", "3", "p.yaml: outputs.texts: expected a reference, such as image or decode.image, found 3"),
    (
        "read.text",
        "'.text'",
        "p.yaml: outputs.texts: '.text' is no reference: expected an input, such as image, or NODE.OUTPUT",
    ),
    (
        "read.text",
        "re ad.text",
        "p.yaml: outputs.texts: 're ad.text' is no reference: expected an input, such as image, or NODE.OUTPUT",
    ),
    (
        "  decode:\n",
        "  de/code:\n",
        (
            "p.yaml: nodes.de/code: 'de/code' can't be a node's name: expected at most 64 letters, digits, _ and "
            "-, no - in front"
        ),
    ),
    ("  decode:\n", "  1:\n", "p.yaml: nodes: the key 1 is not text; put it in quotes"),
    (
        DETECT,
        "    model: det\n" + DETECT,
        "p.yaml: nodes.detect: expected one of model, archive, python and nodes, found model and archive",
    ),
    (DETECT, "", "p.yaml: nodes.detect: expected one of model, archive, python and nodes, found none of them"),
    (
        DETECT,
        "    pyton: steps.py\n",
        (
            "p.yaml: nodes.detect: expected one of model, archive, python and nodes, found none of them, but 'pyton' "
            "(did you mean 'python'?)"
        ),
    ),
    (
        DETECT,
        DETECT + "    opaqe: true\n",
        (
            "p.yaml: nodes.detect.opaqe: unknown key (did you mean 'opaque'?); there are archive, each, inputs, "
            "on_error, opaque, repeat, retry, settings, timeout, unless, when"
        ),
    ),
    (
        DETECT,
        DETECT + "    version: '1'\n",
        "p.yaml: nodes.detect.version: has no meaning beside `archive`, only beside `model`",
    ),
    (
        DETECT,
        "    model: det\n    version: 1.0\n",
        "p.yaml: nodes.detect.version: expected text, found the number 1.0: put it in quotes",
    ),
    (DETECT, "    model: 3\n", "p.yaml: nodes.detect.model: expected text, found the number 3: put it in quotes"),
    (
        DETECT,
        "    archive: ../det.pdar\n",
        (
            "p.yaml: nodes.detect.archive: '../det.pdar' has a component that is empty, '.' or '..'; name an "
            "archive beside the pipeline's file"
        ),
    ),
    (
        DETECT,
        DETECT + "    outputs: [map]\n",
        "p.yaml: nodes.detect.outputs: the model's signature says what it gives; leave this out",
    ),
    (
        FIND,
        FIND + "    opaque: true\n",
        "p.yaml: nodes.find.opaque: has no meaning beside `python`, only beside `model` or `archive`",
    ),
    (FIND, FIND + "    fuse: yes\n", "p.yaml: nodes.find.fuse: has no meaning beside `python`, only beside `nodes`"),
    (DETECT, DETECT + "    opaque: 'yes'\n", "p.yaml: nodes.detect.opaque: expected true or false, found 'yes'"),
    (
        FIND,
        "    python: steps\n",
        "p.yaml: nodes.find.python: expected file.py, or file.py:name of a function or class, found 'steps'",
    ),
    (
        FIND,
        "    python: /steps.py\n",
        "p.yaml: nodes.find.python: '/steps.py' is absolute; name a file beside the pipeline's file",
    ),
    (
        FIND,
        "    python: steps.py:a b\n",
        ("p.yaml: nodes.find.python: expected file.py, or file.py:name of a function or class, found 'steps.py:a b'"),
    ),
    ("outputs: [text]", "outputs: [text, text]", "p.yaml: nodes.read.nodes.words.outputs[1]: 'text' is given twice"),
    ("outputs: [text]", "outputs: []", "p.yaml: nodes.read.nodes.words.outputs: expected at least one output"),
    (
        "outputs: [text]",
        "outputs: [$text]",
        (
            "p.yaml: nodes.read.nodes.words.outputs[0]: '$text' can't be an output's name: names that begin with "
            "$ are reserved"
        ),
    ),
    (
        "outputs: [text]",
        "x: y",
        (
            "p.yaml: nodes.read.nodes.words.x: unknown key; there are each, inputs, on_error, outputs, python, "
            "repeat, retry, settings, timeout, unless, when"
        ),
    ),
    (
        "outputs: [text]",
        "outputs: text",
        (
            "p.yaml: nodes.read.nodes.words.outputs: expected names, such as [boxes], or {boxes: json} with types, "
            "found 'text'"
        ),
    ),
    (
        "outputs: [text]",
        "settings: {}",
        (
            "p.yaml: nodes.read.nodes.words.outputs: missing: say what the code gives, such as [boxes, image] or "
            "boxes: float32[-1, 4]"
        ),
    ),
    (
        "  read:\n",
        "  read: {}\n  reed:\n",
        "p.yaml: nodes.read: expected one of model, archive, python and nodes, found none of them",
    ),
    (
        "    nodes:\n",
        "    nodes: {}\n    x:\n",
        (
            "p.yaml: nodes.read.x: unknown key; there are each, fuse, inputs, nodes, on_error, outputs, repeat, "
            "retry, settings, timeout, unless, when"
        ),
    ),
    (
        X,
        "{x: {from: decode.tensor, optinal: true}}",
        "p.yaml: nodes.detect.inputs.x.optinal: unknown key (did you mean 'optional'?); there are from, optional",
    ),
    (
        X,
        "{x: {optional: true}}",
        "p.yaml: nodes.detect.inputs.x.from: missing: say what it takes, such as from: check.hint",
    ),
    (
        X,
        "{x: {from: decode.tensor, optional: 1}}",
        "p.yaml: nodes.detect.inputs.x.optional: expected true or false, found 1",
    ),
    (X, "[decode.tensor]", "p.yaml: nodes.detect.inputs: expected a mapping (key: value), found a list"),
    (
        X,
        "{x: find.crops}",
        (
            "p.yaml: nodes: find → detect → find is a circle: nodes may only take from those before them; "
            "`repeat` is for loops"
        ),
    ),
    (
        X,
        "{x: read.text}",
        (
            "p.yaml: nodes: find → read → detect → find is a circle: nodes may only take from those before them; "
            "`repeat` is for loops"
        ),
    ),
    (
        MAP,
        "{map: detect.map, image: find.boxes}",
        ("p.yaml: nodes: find → find is a circle: nodes may only take from those before them; `repeat` is for loops"),
    ),
    ("each: crop\n", "each: []\n", "p.yaml: nodes.read.each: expected an input of the node, or a list of them"),
    ("each: crop\n", "each: 3\n", "p.yaml: nodes.read.each: expected text, found the number 3: put it in quotes"),
    (
        READ,
        READ + "    unless: decode.tensor\n    when: decode.turned\n",
        "p.yaml: nodes.read.unless: a node has either `when` or `unless`, not both",
    ),
    (
        READ,
        READ + "    when: [a.b]\n",
        "p.yaml: nodes.read.when: expected a reference, such as image or decode.image, found a list",
    ),
    (READ, READ + "    repeat: 3\n", "p.yaml: nodes.read.repeat: expected a mapping (key: value), found 3"),
    (
        READ,
        READ + "    repeat: {at_most: 3}\n",
        "p.yaml: nodes.read.repeat.while: missing: name the node's output that says whether it runs again",
    ),
    (
        READ,
        READ + "    repeat: {while: text}\n",
        "p.yaml: nodes.read.repeat.at_most: missing: say how often the node may run in all",
    ),
    (
        READ,
        READ + "    repeat: {while: text, at_most: true}\n",
        "p.yaml: nodes.read.repeat.at_most: expected a whole number, found true",
    ),
    (
        READ,
        READ + "    repeat: {while: text, at_most: 3, until: x}\n",
        "p.yaml: nodes.read.repeat.until: unknown key; there are at_most, carry, while",
    ),
    (READ, "    on_error: ignore\n", "p.yaml: nodes.read.on_error: expected fail or skip, found 'ignore'"),
    (
        READ,
        "    on_error: skp\n",
        "p.yaml: nodes.read.on_error: expected fail or skip, found 'skp' (did you mean 'skip'?)",
    ),
    (READ, READ + "    retry: 1.5\n", "p.yaml: nodes.read.retry: expected a whole number, found 1.5"),
    (
        READ,
        READ + "    timeout: 3\n",
        "p.yaml: nodes.read.timeout: expected a duration with its unit, such as 2 s or 500 ms, found 3",
    ),
    (
        READ,
        READ + "    timeout: soon\n",
        "p.yaml: nodes.read.timeout: expected a duration with its unit, such as 2 s or 500 ms, found 'soon'",
    ),
    (
        READ,
        READ + "    timeout: 0 s\n",
        "p.yaml: nodes.read.timeout: expected a duration with its unit, such as 2 s or 500 ms, found '0 s'",
    ),
    (FIND, FIND + "    settings: 3\n", "p.yaml: nodes.find.settings: expected a mapping (key: value), found 3"),
    (
        TOP,
        TOP + "\nfuse: maybe",
        "p.yaml: fuse: expected no, yes, auto, or a list of groups such as [[decode, find]], found 'maybe'",
    ),
    (TOP, TOP + "\nfuse: [decode]", "p.yaml: fuse[0]: expected a list of nodes, found 'decode'"),
    (TOP, TOP + "\nfuse: [[decode]]", "p.yaml: fuse[0]: expected at least two nodes to run in one process"),
    (TOP, TOP + "\nfuse: [[decode, detct]]", "p.yaml: fuse[0][1]: no node 'detct' (did you mean 'detect'?)"),
    (
        TOP,
        TOP + "\nfuse: [[decode, detect], [detect, find]]",
        "p.yaml: fuse[1][0]: 'detect' is in a group already; a node can be in one",
    ),
    (
        TOP,
        TOP + "\nfuse: [[decode, decode]]",
        "p.yaml: fuse[0][1]: 'decode' is in a group already; a node can be in one",
    ),
    (
        TOP,
        TOP + "\nfuse: [[decode, find]]",
        "p.yaml: fuse[0]: detect lies between decode, find: add it to the group, or split the group",
    ),
    (
        TOP,
        TOP + "\nfuse: []",
        "p.yaml: fuse: expected no, yes, auto, or a list of groups such as [[decode, find]], found an empty list",
    ),
    (
        READ,
        READ + "    fuse: [[recognise, wrds]]\n",
        "p.yaml: nodes.read.fuse[0][1]: no node 'wrds' (did you mean 'words'?)",
    ),
]


@pytest.mark.parametrize(("old", "new", "error"), BAD)
def test_the_error_says_where_and_what(old: str, new: str, error: str) -> None:
    with pytest.raises(InvalidPipeline) as raised:
        read(spoilt(old, new).encode(), "p.yaml")
    assert str(raised.value) == error
