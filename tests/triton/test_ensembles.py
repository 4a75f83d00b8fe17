"""Configurations of ensembles → pipelines; and what no ensemble can be, in Triton's words."""

from __future__ import annotations

from typing import Any

import pytest

from pdarchiver.pipeline.graph import ModelBody, Node, Pipeline, Ref, Source, Type
from pdserver.errors import ConfigError
from pdserver.triton.ensembles import Member, Members, check, is_ensemble, models_of, pipeline_of
from pdserver.triton.model_config import from_text
from pdserver.types import Interface, Port

WHERE = "e/config.pbtxt"


def member(ports: str, batch: int = 8) -> Member:
    """`ports` such as "x float32 -1 3 > y float32 -1 1"."""
    inputs, outputs = ([_port(text) for text in side.split(",")] for side in ports.split(">"))
    return Member(Interface(inputs, outputs, batched=batch > 0), batch)


def _port(text: str) -> Port:
    name, dtype, *shape = text.split()
    return Port(name, dtype, tuple(map(int, shape)))


MEMBERS: Members = {
    ("prepare", -1): member("raw bytes -1 1 > pixels float32 -1 3 8 8, size int64 -1 2"),
    ("classify", 2): member("image float32 -1 3 -1 -1 > scores float32 -1 10"),
    ("small", -1): member("image float32 -1 3 8 8 > scores float32 -1 10", batch=2),
    ("whole", -1): member("image float32 -1 3 8 8 > scores float32 -1 10", batch=0),
    ("two", -1): member("image float32 -1 3 8 8, mask float32 -1 8 8 > scores float32 -1 10"),
    ("talk", -1): member("image float32 -1 3 8 8 > scores float32 -1 10")._replace(keeps_sequences=True),
    ("odd", -1): member("image int64 -1 3 8 8 > scores float32 -1 10"),
    ("flat", -1): member("image float32 -1 192 > scores float32 -1 10"),
}
INPUT = 'input { name: "IMAGE" data_type: TYPE_STRING dims: 1 }'
OUTPUT = 'output { name: "SCORES" data_type: TYPE_FP32 dims: 10 }'
PREPARE = """step { model_name: "prepare" model_version: -1 input_map { key: "raw" value: "IMAGE" }
    output_map { key: "pixels" value: "pixels" } }"""
CLASSIFY = """step { model_name: "classify" model_version: 2 input_map { key: "image" value: "pixels" }
    output_map { key: "scores" value: "SCORES" } }"""


def config(*steps: str, head: str = "max_batch_size: 8", inputs: str = INPUT, outputs: str = OUTPUT) -> str:
    scheduling = f"ensemble_scheduling {{ {' '.join(steps)} }}" if steps else ""
    return f'name: "e" platform: "ensemble" {head} {inputs} {outputs} {scheduling}'


def translated(given: Any, members: Members = MEMBERS) -> Pipeline:
    assert check(given, WHERE) == []
    return pipeline_of(given, members, WHERE)


def problem(text: str, members: Members = MEMBERS) -> str:
    given = from_text(text, WHERE)
    with pytest.raises(ConfigError) as caught:
        translated(given, members)
    assert str(caught.value).startswith(f"{WHERE}: ")
    return str(caught.value).removeprefix(f"{WHERE}: ")


def test_steps_become_nodes_in_the_order_of_their_tensors() -> None:
    given = from_text(config(CLASSIFY, PREPARE), WHERE)
    assert is_ensemble(given)
    assert models_of(given) == [("classify", 2), ("prepare", -1)]
    pipeline = translated(given)
    assert pipeline.batched
    assert pipeline.graph.inputs == {"IMAGE": Type("tensor", "bytes", (-1, 1))}
    assert list(pipeline.graph.nodes.values()) == [
        Node("prepare", ModelBody("prepare"), {"raw": Source((Ref("", "IMAGE"),))}),
        Node("classify", ModelBody("classify", "2"), {"image": Source((Ref("prepare", "pixels"),))}),
    ]
    assert pipeline.graph.outputs == {"SCORES": Source((Ref("classify", "scores"),))}


def test_steps_of_the_same_model_are_different_nodes() -> None:
    again = CLASSIFY.replace("SCORES", "again")
    outputs = OUTPUT + 'output { name: "again" data_type: TYPE_FP32 dims: -1 }'
    given = from_text(config(PREPARE, CLASSIFY, again, outputs=outputs), WHERE)
    assert list(translated(given).graph.nodes) == ["prepare", "classify", "classify-2"]


def test_a_tensor_without_a_batch_axis_is_one_row_of_a_model_with_one() -> None:
    """And so are the outputs of a model all of whose inputs are such."""
    assert not translated(from_text(config(PREPARE, CLASSIFY, head="max_batch_size: 0"), WHERE)).batched
    inputs = INPUT.replace("dims: 1", "dims: [-1, 1]")
    outputs = OUTPUT.replace("dims: 10", "dims: [-1, 10]")
    text = config(PREPARE, CLASSIFY, head="", inputs=inputs, outputs=outputs)
    assert not translated(from_text(text, WHERE)).batched


def test_a_batch_may_go_through_a_model_that_knows_none_of_batches() -> None:
    """Where the model's own shape has the axis."""
    whole = CLASSIFY.replace("classify", "whole").replace("version: 2", "version: -1")
    assert translated(from_text(config(PREPARE, whole), WHERE)).batched


def test_what_has_no_effect() -> None:
    inputs = INPUT.replace("dims: 1", "dims: 1 optional: true")
    step = PREPARE.replace("model_version: -1", 'model_namespace: "n"')
    given = from_text(config(step, CLASSIFY, inputs=inputs, head="response_cache { enable: true }"), WHERE)
    assert models_of(given)[0] == ("prepare", -1), "a version that is not given is the latest"
    optional, cache, namespace = check(given, WHERE)
    assert "response_cache has no effect" in cache
    assert "input 'IMAGE': optional has no effect" in optional
    assert "model_namespace has no effect" in namespace


GROUP = "instance_group { count: 1 }"
WARM = 'model_warmup { name: "w" }'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (config(), "ensemble_scheduling: must be set where platform is 'ensemble'"),
        (config("max_inflight_requests: 4"), "ensemble_scheduling: must specify 'step'"),
        (
            config(PREPARE, CLASSIFY).replace('"ensemble"', '"paddle"'),
            "platform: 'paddle', with ensemble_scheduling: expected platform: 'ensemble' alone",
        ),
        (
            config(PREPARE, CLASSIFY, head='backend: "python"'),
            "backend: 'python', with ensemble_scheduling: expected platform: 'ensemble' alone",
        ),
        (config(PREPARE, CLASSIFY, head=GROUP), "instance_group should not be specified for an ensemble: set it in"),
        (config(PREPARE, CLASSIFY, head="optimization {}"), "optimization should not be specified for an ensemble"),
        (config(PREPARE, CLASSIFY, head=WARM), "model_warmup should not be specified for an ensemble"),
        (config(PREPARE, CLASSIFY, head="max_batch_size: -1"), "max_batch_size: -1: expected 0 to "),
        (config(PREPARE, CLASSIFY, inputs=""), "input: an ensemble must have at least one"),
        (config(PREPARE, CLASSIFY, outputs=""), "output: an ensemble must have at least one"),
        (config(PREPARE, CLASSIFY, inputs="input { dims: 1 }"), "input: must specify 'name'"),
        (config(PREPARE, CLASSIFY, inputs=INPUT + INPUT), "input 'IMAGE' is there twice"),
        (
            config(PREPARE, CLASSIFY, inputs=INPUT.replace("data_type: TYPE_STRING", "")),
            "input 'IMAGE': must specify 'data_type'",
        ),
        (config(PREPARE, CLASSIFY, outputs=OUTPUT.replace("dims: 10", "")), "output 'SCORES': dims: []: expected"),
        (config(PREPARE, CLASSIFY, outputs=OUTPUT.replace("10", "0")), "output 'SCORES': dims: [0]: expected"),
        (
            config(PREPARE, CLASSIFY, outputs=OUTPUT.replace("10", "10 reshape { shape: [2, 5] }")),
            "output 'SCORES': reshape: an ensemble passes tensors on as they are",
        ),
        (
            config(PREPARE.replace('model_name: "prepare"', ""), CLASSIFY),
            "ensemble_scheduling: step 0: must specify 'model_name'",
        ),
        (
            config(PREPARE, 'step { model_name: "classify" output_map { key: "scores" value: "SCORES" } }'),
            "ensemble_scheduling: step 1: must specify 'input_map'",
        ),
        (
            config(PREPARE, CLASSIFY, 'step { model_name: "classify" input_map { key: "image" value: "pixels" } }'),
            "ensemble_scheduling: step 2: must specify 'output_map'",
        ),
        (config(PREPARE.replace("prepare", "e"), CLASSIFY), "step 0: model_name: 'e' is the ensemble itself"),
        (config(PREPARE.replace("-1", "-2"), CLASSIFY), "step 0: model_version: -2: expected a version, or -1"),
        (
            config(PREPARE, CLASSIFY, CLASSIFY),
            "ensemble tensor 'SCORES' can appear in an output map only once: step 2 gives it, and step 1 does",
        ),
        (
            config(PREPARE.replace('value: "pixels"', 'value: "IMAGE"'), CLASSIFY),
            "ensemble tensor 'IMAGE' can appear in an output map only once: step 0 gives it, and the client does",
        ),
        (
            config(PREPARE, CLASSIFY, inputs=INPUT + INPUT.replace("IMAGE", "OTHER")),
            "ensemble input 'OTHER' is not used: no input_map has it",
        ),
        (
            config(PREPARE, CLASSIFY, outputs=OUTPUT + OUTPUT.replace("SCORES", "SCORE")),
            "ensemble output 'SCORE' is not used; did you mean SCORES?: no output_map has it",
        ),
        (
            config(PREPARE, CLASSIFY.replace('"pixels"', '"pixel"')),
            "ensemble tensor 'pixel' is not written; did you mean pixels?: it is no input, and in no output_map",
        ),
        (
            config(PREPARE.replace("} }", '} output_map { key: "size" value: "size" } }'), CLASSIFY),
            "ensemble tensor 'size' is unused: leave it out of step 0",
        ),
        (
            config(
                PREPARE.replace('"IMAGE"', '"SCORES"'),
                CLASSIFY,
                inputs=INPUT,
                outputs=OUTPUT + INPUT.replace("in", "out"),
            ),
            "the steps of classify, prepare wait for each other's tensors: a circle",
        ),
    ],
)
def test_what_no_ensemble_can_be(text: str, words: str) -> None:
    assert words in problem(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            config(PREPARE, CLASSIFY.replace("classify", "small").replace(": 2", ": -1")),
            "ensemble e allows maximum batch size 8, but it contains model small which only allows maximum batch size "
            "to be 2",
        ),
        (
            config(PREPARE, CLASSIFY.replace("classify", "two").replace(": 2", ": -1")),
            "in ensemble e, input mask in model two is not mapped to any ensemble tensors",
        ),
        (
            config(PREPARE, CLASSIFY.replace('"image"', '"imag"')),
            "in ensemble e, ensemble tensor pixels is mapping to non-existing input imag in model classify; did you "
            "mean image?; it has image",
        ),
        (
            config(PREPARE, CLASSIFY.replace('"scores"', '"score"')),
            "in ensemble e, ensemble tensor SCORES is mapped from non-existing output score in model classify; did you "
            "mean scores?; it has scores",
        ),
        (
            config(PREPARE, CLASSIFY.replace("classify", "odd").replace(": 2", ": -1")),
            "in ensemble e, ensemble tensor pixels: inconsistent data type: TYPE_FP32 is inferred from model prepare "
            "while TYPE_INT64 is inferred from model odd",
        ),
        (
            config(PREPARE, CLASSIFY.replace("classify", "talk").replace(": 2", ": -1")),
            "model talk keeps sequences, which an ensemble does not pass on",
        ),
        (
            config(PREPARE, CLASSIFY.replace("classify", "flat").replace(": 2", ": -1")),
            "in ensemble e, ensemble tensor pixels: inconsistent shape: [-1, 3, 8, 8] is inferred from model prepare "
            "while [-1, 192] is inferred from model flat",
        ),
        (
            config(PREPARE, CLASSIFY, inputs=INPUT.replace("STRING", "UINT8")),
            "ensemble tensor IMAGE: inconsistent data type: TYPE_UINT8 is inferred from model e while TYPE_STRING is "
            "inferred from model prepare",
        ),
        (
            config(PREPARE, CLASSIFY, outputs=OUTPUT.replace("10", "11")),
            "ensemble tensor SCORES: inconsistent shape: [-1, 11] is inferred from model e while [-1, 10] is inferred "
            "from model classify",
        ),
        (
            config(PREPARE, CLASSIFY, head="max_batch_size: 0", outputs=OUTPUT.replace("10", "[-1, 10]")),
            "ensemble tensor SCORES: inconsistent shape: [-1, 10] is inferred from model e while [10] is inferred",
        ),
    ],
)
def test_models_that_do_not_fit(text: str, words: str) -> None:
    assert words in problem(text)
