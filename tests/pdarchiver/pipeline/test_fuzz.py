"""Whatever a stranger writes into a pipeline.yaml, InvalidPipeline is the only thing that comes out, and soon."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pdarchiver.errors import InvalidPipeline
from pdarchiver.pipeline.checks import check
from pdarchiver.pipeline.graph import Pipeline
from pdarchiver.pipeline.order import ungrouped
from pdarchiver.pipeline.reading import read
from tests.pdarchiver.pipeline.base import BASE, TOP, signature, spoilt

REFS = ["image", "decode.tensor", "detect.map", "find.crops", "read.text", "read.$failures", "crop", "a.b", "x"]
KEYS = [
    *("inputs", "outputs", "nodes", "batched", "contract", "fuse", "samples", "model", "archive", "python", "version"),
    *("opaque", "each", "when", "unless", "on_error", "repeat", "timeout", "retry", "settings", "while", "at_most"),
    *("carry", "from", "optional", "image", "decode", "detect", "find", "read", "x"),
]
WORDS = [*REFS, *KEYS, "steps.py:F", "det.pdar", "fail", "skip", "yes", "list of bytes", "float32[-1, 3]", "2 s", "$x"]
scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.sampled_from(WORDS), st.text())
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=8), inner, max_size=5)
    ),
    max_leaves=25,
)


def tried(data: bytes) -> Pipeline | None:
    with suppress(InvalidPipeline):
        pipeline = read(data, "p.yaml")
        check(pipeline, signature)
        return pipeline
    return None


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_bytes(data: bytes) -> None:
    tried(data)


@given(values)
def test_any_yaml(value: Any) -> None:
    tried(yaml.safe_dump(value, allow_unicode=True).encode(errors="surrogatepass"))


def ways(value: Any, way: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to each value in a document."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [way, *(each for key, item in inside for each in ways(item, (*way, key)))]


@given(st.data())
def test_a_good_pipeline_with_a_few_values_changed(data: st.DataObject) -> None:
    document = yaml.safe_load(BASE)
    for _ in range(data.draw(st.integers(1, 3))):
        way = data.draw(st.sampled_from(ways(document)))
        if not way:
            continue
        *above, key = way
        place = document
        for step in above:
            place = place[step]
        if data.draw(st.booleans()) or isinstance(place, list):
            place[key] = data.draw(values)
        else:
            place[data.draw(st.sampled_from(KEYS))] = place.pop(key)
    tried(yaml.safe_dump(document).encode())


@given(st.lists(st.lists(st.sampled_from(["decode", "detect", "find", "read"]), max_size=3), max_size=3))
def test_any_groups(groups: list[list[str]]) -> None:
    """What is fused and taken apart again is the pipeline as it was written."""
    pipeline = tried((BASE + f"fuse: {groups}").encode())
    if pipeline is not None:
        written = read(BASE.encode(), "p.yaml").graph
        assert ungrouped(pipeline.graph).nodes == written.nodes
        assert ungrouped(pipeline.graph).outputs == written.outputs


MANY = 10_000


@pytest.mark.parametrize(
    ("data", "error"),
    [
        ("a: &a [" + "x," * 9 + "]\n" + "".join(f"b{i}: &b{i} [{'*a,' * 9}]\n" for i in range(9)), "aliases"),
        ("inputs: " + "[" * MANY, "nested too deeply"),
        ("inputs: " + "{a: " * MANY, "nested too deeply"),
        ("{" * MANY, "nested too deeply"),
        ("x" * 300_000, "300000 bytes of YAML; at most 262144 are accepted"),
        (spoilt("decode.tensor", "[" + "decode.tensor, " * MANY + "decode.tensr]"), r"inputs\.x\[10000\]: the node"),
        (spoilt("decode.tensor", "d" * 200_000 + ".x"), "no reference"),
        (spoilt("read.text", "read." + "t" * 200_000), "the node 'read' has no output 't{100}'"),
        (spoilt(TOP, "inputs:\n  ? " + "i" * 200_000 + "\n  : bytes"), "can't be an input's name"),
        (spoilt(TOP, "inputs: {image: '" + "9" * 200_000 + "'}"), "is no type"),
        (spoilt(TOP, "inputs: {image: 'int8[" + "9," * 90_000 + "]'}"), "at most 32 lengths"),
        (spoilt(TOP, "inputs: {image: " + "list of " * 20_000 + "}"), "no lists of lists"),
        (BASE + "batched: " + "9" * 4_000, "a number of hundreds of digits"),
        (BASE + "batched: " + "9" * 200_000, "not YAML: "),
        (BASE + "fuse: [[" + "decode, " * MANY + "]]", "in a group already"),
        (BASE + "".join(f"  n{i}: {{}}\n" for i in range(2000)), "n0: expected one of"),
        ("nodes:\n" + "".join(f"  n{i}: {{python: a.py, inputs: {{x: n{i - 1}.y}}}}\n" for i in range(2000)), "inputs"),
    ],
    ids=range(17),
)
def test_nasty_files_end_soon_with_a_short_error(data: str, error: str) -> None:
    with pytest.raises(InvalidPipeline, match=error) as raised:
        check(read(data.encode(), "p.yaml"), signature)
    assert len(str(raised.value)) < 600


def test_the_longest_pipelines_are_read() -> None:
    nodes = "".join(
        f"  n{i}: {{python: a.py, inputs: {{x: {f'n{i - 1}.y' if i else 'x'}}}, outputs: [y]}}\n" for i in range(1000)
    )
    pipeline = tried(f"inputs: {{x: any}}\noutputs: {{y: n999.y}}\nfuse: yes\nnodes:\n{nodes}".encode())
    assert pipeline is not None
    assert len(pipeline.graph.nodes) == 1000
    many = ", ".join(["decode.tensor"] * MANY)
    assert tried(spoilt("decode.tensor", f"[{many}]").encode()) is not None
