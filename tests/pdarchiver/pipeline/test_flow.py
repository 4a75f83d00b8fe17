"""Pipelines that work: what they give, and what the checks allow."""

from __future__ import annotations

import json

import pytest

from pdarchiver.errors import InvalidPipeline
from pdarchiver.manifest import Manifest, Signature, TensorSpec
from pdarchiver.pipeline.checks import Sides, check, sides
from pdarchiver.pipeline.graph import Graph, ModelBody, Node, Pipeline, PythonBody, Ref, Source, Type
from pdarchiver.pipeline.reading import read
from tests.pdarchiver.pipeline.base import BASE, DETECT, FIND, READ, TOP, checked, signature, spoilt


def test_what_a_pipeline_gives() -> None:
    assert {name: str(type_) for name, type_ in checked(BASE).items()} == {
        "texts": "list",
        "boxes": "float32[-1, 4, 2]",
    }


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("list of float32[3, 48, -1]", "float32"),  # rows of a tensor are items, too
        ("list of float32[3, 48, -1]", "float32[-1, 3, 48, -1]"),
        ("list of float32[3, 48, -1]", "list of float32[1, 3, 48, -1]"),  # with the batch axis
        ("list of float32[3, 48, -1]", "any"),
        ("{map: detect.map, image: decode.image}", "{map: detect.map}"),
        (READ, READ + "    unless: find.crops\n    timeout: 1.5 s\n    retry: 100\n"),
        (READ, READ + "    repeat: {while: text, at_most: 1000, carry: {crop: text}}\n"),
        ("texts: read.text", "texts: [read.text, find.crops], where: read.$positions, lost: read.$failures"),
        (DETECT, "    model: det\n    version: '3'\n"),  # nothing is known of it
        ("{archive: rec.pdar, inputs: {x: crop}}", "{model: rec, inputs: {x: crop}}"),
        (FIND, FIND + "    settings: {minWorkers: 2}\n"),
        (READ, READ + "    fuse: yes\n    settings: {minWorkers: 2}\n"),
        (TOP, TOP + "\nfuse: [[detect, find]]"),
        (TOP, TOP + "\nfuse: auto"),
        (TOP, "inputs: {image: bytes, names: json}\ncontract: paddle-serving/pipeline"),
    ],
)
def test_what_the_checks_allow(old: str, new: str) -> None:
    assert set(checked(spoilt(old, new))) >= {"texts", "boxes"}


@pytest.mark.parametrize(
    ("crops", "given"),
    [
        ("list of float32[3, 48, -1]", "list of float32[-1, 97]"),
        ("list of float32[2, 3, 48, -1]", "list of float32[-1, -1, 97]"),
        ("list of float32", "list of float32"),
        ("any", "list of float32"),
    ],
)
def test_a_model_answers_with_the_batch_axis_if_it_is_asked_with_it(crops: str, given: str) -> None:
    """An answer's other axes are those of the signature; where it can't be told, only its dtype is known."""
    text = spoilt("list of float32[3, 48, -1]", crops)
    without = text.replace("      words: {", "      w: {").replace(
        "{text: words.text}", "{text: recognise.p, w: w.text}"
    )
    outputs = "outputs: {w: read.w, texts: read.text"
    assert str(checked(without.replace("outputs: {texts: read.text", outputs))["texts"]) == given


def test_models_are_asked_for_by_the_paths_of_their_nodes() -> None:
    paths = []

    def known(path: str, body: ModelBody) -> None:
        paths.append((path, body.archive))

    check(read(spoilt(TOP, TOP + "\nfuse: [[detect, find]]").encode(), ""), known)
    assert paths == [("detect+find/detect", "det.pdar"), ("read/recognise", "rec.pdar")]


def test_errors_in_fused_nodes_have_the_place_where_they_are_written() -> None:
    with pytest.raises(InvalidPipeline, match=r"^nodes\.detect\.inputs\.x: is uint8"):
        checked(spoilt("decode.tensor", "decode.image") + "fuse: [[detect, find]]")
    with pytest.raises(InvalidPipeline, match=r"^nodes\.detect\.model: a model of the store .* `archive:`"):
        checked(spoilt(DETECT, "    model: det\n") + "fuse: [[detect, find]]")
    with pytest.raises(InvalidPipeline, match=r"nodes\.find\.settings\.minWorkers: 2, but detect says 1, and"):
        checked(
            spoilt(FIND, FIND + "    settings: {minWorkers: 2}\n").replace(
                DETECT, DETECT + "    settings: {minWorkers: 1}\n"
            )
            + "fuse: [[detect, find]]"
        )


def test_graphs_made_by_programs_are_checked_too() -> None:
    def node(name: str, *befores: str) -> Node:
        inputs = {before: Source((Ref(before, "y"),)) for before in befores}
        return Node(name, PythonBody("a.py"), {"x": Source((Ref("", "x"),)), **inputs}, {"y": Type()})

    def pipeline(*nodes: Node) -> Pipeline:
        outputs = {"y": Source((Ref(nodes[-1].name, "y"),))}
        return Pipeline(Graph({"x": Type()}, {node.name: node for node in nodes}, outputs))

    check(pipeline(node("a"), node("b", "a")), signature)
    with pytest.raises(InvalidPipeline, match=r"^nodes: a → b → a is a circle"):
        check(pipeline(node("a", "b"), node("b", "a")), signature)
    with pytest.raises(InvalidPipeline, match=r"^nodes\.a\.inputs\.b: the node 'b' comes later"):
        check(pipeline(node("a", "b"), node("b"), node("c", "a")), signature)
    nodes = [node("n0"), *(node(f"n{at}", f"n{at - 1}") for at in range(1, 1001))]
    check(pipeline(*nodes[:1000]), signature)
    with pytest.raises(InvalidPipeline, match=r"^nodes: 1001 nodes; at most 1000 are accepted"):
        check(pipeline(*nodes), signature)


def test_groups_that_wait_for_each_other() -> None:
    text = "inputs: {x: any}\noutputs: {y: [c.y, d.y]}\nfuse: [[a, d], [b, c]]\nnodes:\n" + "\n".join(
        f"  {name}: {{python: s.py, inputs: {{x: {source}}}, outputs: [y]}}"
        for name, source in (("a", "x"), ("b", "x"), ("c", "a.y"), ("d", "b.y"))
    )
    with pytest.raises(InvalidPipeline, match=r"fuse\[0\]: the groups .* wait for each other; fuse fewer nodes"):
        read(text.encode(), "")


def test_graphs_within_graphs_end_somewhere() -> None:
    def nested(levels: int) -> str:
        inner = "{python: s.py, inputs: {x: x}, outputs: [y]}"
        for _ in range(levels - 1):
            inner = f"{{inputs: {{x: x}}, nodes: {{n: {inner}}}, outputs: {{y: n.y}}}}"
        return f"inputs: {{x: any}}\noutputs: {{y: n.y}}\nnodes: {{n: {inner}}}"

    checked(nested(8))
    with pytest.raises(InvalidPipeline, match=r"nodes\.n\.nodes: graphs within graphs, more than 8 deep"):
        checked(nested(9))


def test_what_is_known_of_a_packed_model_depends_on_its_handler() -> None:
    """Handlers of one's own may be asked by tensors of their own, such as bytes of pictures."""
    signature = Signature((TensorSpec("x", "int64", (-1,), "x"),), (TensorSpec("y", "bool", (), "y"),))
    known = sides(Manifest(model_name="m", signature=signature))
    assert known == Sides({"x": Type("tensor", "int64", (-1,))}, {"y": Type("tensor", "bool", ())})
    assert sides(Manifest(model_name="m", handler="handler.py", signature=signature)) is None
    scores = Signature(signature.inputs, (TensorSpec("y", "float32", (-1, 10), "y"),))
    for handler, name in (("image_classifier", "image"), ("text_classifier", "text")):
        known = sides(Manifest(model_name="m", handler=handler, signature=scores))
        assert known == Sides({name: Type()}, {"probabilities": Type("tensor", "float32", (-1, 10))})
    assert sides(Manifest(model_name="m")) is None


@pytest.mark.parametrize(
    ("refs", "given"),
    [
        ("a.one, a.same", "float32[1, 3]"),
        ("a.one, a.two", "float32[-1, 3]"),
        ("a.one, a.whole", "tensor[1, 3]"),
        ("a.one, a.flat", "float32"),
        ("a.one, a.text", "any"),
        ("a.texts, a.ones", "list"),
        ("a.ones, a.twos", "list of float32[-1, 3]"),
    ],
)
def test_what_comes_from_either_is_known_as_far_as_both_agree(refs: str, given: str) -> None:
    outputs = {
        **{"one": "float32[1, 3]", "same": "float32[1, 3]", "two": "float32[2, 3]", "whole": "int64[1, 3]"},
        **{"flat": "float32[3]", "text": "text", "texts": "list of text"},
        **{"ones": "list of float32[1, 3]", "twos": "list of float32[2, 3]"},
    }
    text = f"inputs: {{x: any}}\noutputs: {{y: [{refs}]}}\nnodes: {{a: {{python: s.py, outputs: {json.dumps(outputs)}, "
    found = checked(text + "inputs: {x: x}}}")["y"]
    assert str(found) == given


def test_a_model_asked_as_by_a_plain_request_gives_its_body() -> None:
    text = "inputs: {x: bytes}\noutputs: {y: a.body}\nnodes: {a: {archive: det.pdar, opaque: true, inputs: {any: x}}}"
    assert checked(text) == {"y": Type()}


def test_of_a_batched_pipeline_everything_is_a_tensor() -> None:
    text = "inputs: {x: 'float32[-1, 13]'}\nbatched: true\noutputs: {y: a.y}\nnodes: {a: {python: s.py, outputs: "
    assert checked(text + "{y: 'int64[-1]'}, inputs: {x: x}}}") == {"y": Type("tensor", "int64", (-1,))}
    with pytest.raises(
        InvalidPipeline, match=r"^outputs\.y: is int64\[\]; with `batched: true`, each value is a tensor"
    ):
        checked(text + "{y: 'int64[]'}, inputs: {x: x}}}")
