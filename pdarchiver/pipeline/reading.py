"""Reads a pipeline.yaml. What it says is checked against models in `checks`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from pdarchiver import safe_yaml
from pdarchiver.errors import InvalidPipeline, nearest
from pdarchiver.names import path_problem
from pdarchiver.pipeline import types
from pdarchiver.pipeline.fields import NAME, Fields, check_name, shown, text
from pdarchiver.pipeline.graph import (
    ANY,
    Body,
    Condition,
    Graph,
    ModelBody,
    Node,
    Pipeline,
    PythonBody,
    Ref,
    Repeat,
    Source,
    Type,
)
from pdarchiver.pipeline.order import grouped, ordered

MAX_DEPTH = 8
"""Of graphs within graphs."""

TOP_KEYS = ("inputs", "outputs", "nodes", "batched", "contract", "fuse", "samples")
BODIES = ("model", "archive", "python", "nodes")
NODE_KEYS = ("inputs", "each", "when", "unless", "on_error", "repeat", "timeout", "retry", "settings")
OWN_KEYS = {
    "model": ("version", "opaque"),
    "archive": ("opaque",),
    "python": ("outputs",),
    "nodes": ("outputs", "fuse"),
}
_OWNER = {"version": "`model`", "opaque": "`model` or `archive`", "outputs": "`python` or `nodes`", "fuse": "`nodes`"}
_ENTRY = re.compile(r"(?P<file>[^:]+\.py)(:[A-Za-z_]\w*)?")


def read(data: bytes, where: str) -> Pipeline:
    """The pipeline in a YAML document. `where` is the file's name, for errors. Raises InvalidPipeline."""
    try:
        return _pipeline(safe_yaml.load(data))
    except safe_yaml.InvalidYaml as error:
        raise InvalidPipeline("", _hinted(str(error)[:200]), f"{where}{error.place}") from None
    except InvalidPipeline as error:
        raise error.within(where) from None


def _hinted(problem: str) -> str:
    if "but got '['" in problem:
        return problem + ': inside { }, a type with lengths needs quotes, as in {x: "float32[1, 3]"}'
    return problem


def _pipeline(value: Any) -> Pipeline:
    top = Fields("", value, TOP_KEYS)
    inputs = Fields("inputs", top.required("inputs", "say what clients send, such as image: bytes"))
    types_ = {name: _type(inputs.at(name), inputs.value[name]) for name in inputs.names("an input's name")}
    if not types_:
        top.fail("inputs", "expected at least one input, such as image: bytes")
    return Pipeline(
        _graph(top, types_, depth=1),
        batched=top.truth("batched"),
        contract=top.text("contract"),
        samples=_samples(top),
    )


def _graph(fields: Fields, inputs: Mapping[str, Type], depth: int) -> Graph:
    if depth > MAX_DEPTH:
        fields.fail("nodes", f"graphs within graphs, more than {MAX_DEPTH} deep")
    nodes = Fields(fields.at("nodes"), fields.required("nodes", "say what runs"))
    if not nodes.value:
        fields.fail("nodes", "expected at least one node")
    found = [_node(name, nodes.at(name), nodes.value[name], depth) for name in nodes.names("a node's name")]
    outputs = Fields(fields.at("outputs"), fields.required("outputs", "say what it gives, such as text: read.text"))
    if not outputs.value:
        fields.fail("outputs", "expected at least one output, such as text: read.text")
    sources = {name: Source(_refs(outputs.at(name), outputs.value[name])) for name in outputs.names("an output's name")}
    fuse, groups = _fuse(fields)
    graph = Graph(inputs, ordered(found, fields.at("nodes")), sources, fuse)
    return grouped(graph, groups, f"{fields.place}." if fields.place else "") if groups else graph


def _fuse(fields: Fields) -> tuple[Literal["no", "yes", "auto"], list[list[str]]]:
    value = fields.value.get("fuse", False)
    if isinstance(value, bool):  # what YAML takes no and yes for
        return "yes" if value else "no", []
    if value in ("no", "yes", "auto"):
        return value, []
    if not isinstance(value, list) or not value:
        fields.fail(
            "fuse", f"expected no, yes, auto, or a list of groups such as [[decode, find]], found {shown(value)}"
        )
    groups = []
    for index, group in enumerate(value):
        place = f"{fields.at('fuse')}[{index}]"
        if not isinstance(group, list):
            raise InvalidPipeline(place, f"expected a list of nodes, found {shown(group)}")
        groups.append([text(f"{place}[{at}]", name) for at, name in enumerate(group)])
    return "no", groups


def _node(name: str, place: str, value: Any, depth: int) -> Node:
    fields = Fields(place, value)
    kind = _kind(fields)
    inputs = Fields(fields.at("inputs"), fields.value.get("inputs", {}))
    names = inputs.value if kind in ("model", "archive") else inputs.names("an input's name")
    sources = {name: _source(inputs.at(name), inputs.value[name]) for name in names}
    body = _body(kind, fields, sources, depth)
    node = Node(name, body, sources, _outputs(fields, body), each=_each(fields), when=_condition(fields))
    return replace(
        node,
        repeat=_repeat(fields),
        on_error=_on_error(fields),
        timeout_seconds=fields.seconds("timeout"),
        retry=fields.whole("retry", 0),
        settings=_settings(fields),
    )


def _kind(fields: Fields) -> str:
    """Which of the four a node is. Raises InvalidPipeline for keys that have no meaning beside it."""
    kinds = [kind for kind in BODIES if kind in fields.value]
    if len(kinds) != 1:
        slips = (f", but {shown(key)}{near}" for key in fields.value if (near := nearest(key[:100], BODIES)))
        found = " and ".join(kinds) or f"none of them{next(slips, '')}"
        raise InvalidPipeline(fields.place, f"expected one of model, archive, python and nodes, found {found}")
    kind = kinds[0]
    for key in fields.value:
        if key == "outputs" and key not in OWN_KEYS[kind]:
            fields.fail(key, "the model's signature says what it gives; leave this out")
        if key in _OWNER and key not in OWN_KEYS[kind]:
            fields.fail(key, f"has no meaning beside `{kind}`, only beside {_OWNER[key]}")
    fields.check_keys((kind, *OWN_KEYS[kind], *NODE_KEYS))
    return kind


def _body(kind: str, fields: Fields, inputs: Mapping[str, Source], depth: int) -> Body:
    if kind == "nodes":
        return _graph(fields, dict.fromkeys(inputs, ANY), depth + 1)
    if kind == "python":
        return PythonBody(_entry(fields))
    opaque = fields.truth("opaque")
    if kind == "model":
        return ModelBody(fields.text("model"), version=fields.text("version") or None, opaque=opaque)
    archive = fields.text("archive")
    if problem := path_problem(archive):
        fields.fail("archive", f"{shown(archive)} {problem}; name an archive beside the pipeline's file")
    return ModelBody(archive=archive, opaque=opaque)


def _entry(fields: Fields) -> str:
    entry = fields.text("python")
    match = _ENTRY.fullmatch(entry)
    if match is None:
        fields.fail("python", f"expected file.py, or file.py:name of a function or class, found {shown(entry)}")
    if problem := path_problem(match["file"]):
        fields.fail("python", f"{shown(match['file'])} {problem}; name a file beside the pipeline's file")
    return entry


def _outputs(fields: Fields, body: Body) -> dict[str, Type]:
    if isinstance(body, Graph):
        return dict.fromkeys(body.outputs, ANY)
    if not isinstance(body, PythonBody):
        return {}
    value = fields.required("outputs", "say what the code gives, such as [boxes, image] or boxes: float32[-1, 4]")
    if isinstance(value, list):
        found = [text(f"{fields.at('outputs')}[{index}]", name) for index, name in enumerate(value)]
        for index, name in enumerate(found):
            check_name(f"{fields.at('outputs')}[{index}]", name, "an output's name")
            if name in found[:index]:
                raise InvalidPipeline(f"{fields.at('outputs')}[{index}]", f"{name!r} is given twice")
        outputs = dict.fromkeys(found, ANY)
    elif not isinstance(value, dict):
        fields.fail("outputs", f"expected names, such as [boxes], or {{boxes: json}} with types, found {shown(value)}")
    else:
        named = Fields(fields.at("outputs"), value)
        outputs = {name: _type(named.at(name), named.value[name]) for name in named.names("an output's name")}
    if not outputs:
        fields.fail("outputs", "expected at least one output")
    return outputs


def _type(place: str, value: Any) -> Type:
    if not isinstance(value, str):
        raise InvalidPipeline(place, f"expected a type, such as bytes or float32[-1, 3], found {shown(value)}")
    try:
        return types.parse(text(place, value))
    except ValueError as error:
        raise InvalidPipeline(place, str(error)) from None


def _source(place: str, value: Any) -> Source:
    if not isinstance(value, dict):
        return Source(_refs(place, value))
    fields = Fields(place, value, ("from", "optional"))
    return Source(
        _refs(fields.at("from"), fields.required("from", "say what it takes, such as from: check.hint")),
        fields.truth("optional"),
    )


def _refs(place: str, value: Any) -> tuple[Ref, ...]:
    if not isinstance(value, list):
        return (_ref(place, value),)
    if not value:
        raise InvalidPipeline(place, "expected at least one reference, such as decode.image")
    return tuple(_ref(f"{place}[{index}]", item) for index, item in enumerate(value))


def _ref(place: str, value: Any) -> Ref:
    """Model outputs may have any name, so a reference ends at its first dot."""
    if not isinstance(value, str):
        raise InvalidPipeline(place, f"expected a reference, such as image or decode.image, found {shown(value)}")
    node, dot, name = text(place, value).partition(".")
    if not dot:
        node, name = "", node
    if (dot and not NAME.fullmatch(node)) or not name:
        raise InvalidPipeline(
            place, f"{shown(value)} is no reference: expected an input, such as image, or NODE.OUTPUT"
        )
    return Ref(node, name)


def _each(fields: Fields) -> tuple[str, ...]:
    value = fields.value.get("each", [])
    if not isinstance(value, list):
        return (text(fields.at("each"), value),)
    if "each" in fields.value and not value:
        fields.fail("each", "expected an input of the node, or a list of them")
    return tuple(text(f"{fields.at('each')}[{index}]", name) for index, name in enumerate(value))


def _condition(fields: Fields) -> Condition | None:
    given = [key for key in ("when", "unless") if key in fields.value]
    if len(given) > 1:
        fields.fail("unless", "a node has either `when` or `unless`, not both")
    if not given:
        return None
    return Condition(_ref(fields.at(given[0]), fields.value[given[0]]), holds=given[0] == "when")


def _repeat(fields: Fields) -> Repeat | None:
    if "repeat" not in fields.value:
        return None
    repeat = Fields(fields.at("repeat"), fields.value["repeat"], ("while", "at_most", "carry"))
    repeat.required("while", "name the node's output that says whether it runs again")
    repeat.required("at_most", "say how often the node may run in all")
    carry = Fields(repeat.at("carry"), repeat.value.get("carry", {}))
    carried = {name: text(carry.at(name), carry.value[name]) for name in carry.value}
    return Repeat(repeat.text("while"), repeat.whole("at_most"), carried)


def _on_error(fields: Fields) -> Literal["fail", "skip"]:
    value = fields.value.get("on_error", "fail")
    if value in ("fail", "skip"):
        return "fail" if value == "fail" else "skip"
    hint = nearest(value[:100], ("fail", "skip")) if isinstance(value, str) else ""
    fields.fail("on_error", f"expected fail or skip, found {shown(value)}{hint}")


def _settings(fields: Fields) -> dict[str, Any]:
    return Fields(fields.at("settings"), fields.value.get("settings", {})).value


def _samples(top: Fields) -> tuple[dict[str, str], ...]:
    value = top.value.get("samples", [])
    if not isinstance(value, list):
        top.fail("samples", f"expected a list of requests, such as [{{image: page.png}}], found {shown(value)}")
    found = []
    for index, item in enumerate(value):
        sample = Fields(f"samples[{index}]", item)
        files = {name: text(sample.at(name), path) for name, path in sample.value.items()}
        for name, path in files.items():
            if problem := path_problem(path):
                sample.fail(name, f"{shown(path)} {problem}; name a file beside the pipeline's file")
        found.append(files)
    return tuple(found)
