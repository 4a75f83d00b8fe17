"""What a config.pbtxt says, and what it means here. Signatures are made up; no model is loaded."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from pdarchiver.manifest import Signature, TensorSpec
from pdserver.configuration.model import ModelSettings, QueuePolicy
from pdserver.errors import ConfigError
from pdserver.triton import settings as translation
from pdserver.triton.complete import check, complete, signature_of
from pdserver.triton.model_config import as_json, from_json, from_text

SIGNATURE = Signature(
    (TensorSpec("x", "float32", (-1, 13), "x"), TensorSpec("ids", "int64", (-1, -1), "ids")),
    (TensorSpec("y", "float32", (-1, 1), "y"),),
)
INPUTS = """
    input [{ name: "x" data_type: TYPE_FP32 dims: [13] }, { name: "ids" data_type: TYPE_INT64 dims: [-1] }]
    output { name: "y" data_type: TYPE_FP32 dims: 1 }
"""


def completed(text: str, signature: Signature = SIGNATURE) -> Any:
    config = from_text(text, "m/config.pbtxt")
    check(config, "m", "m/config.pbtxt")
    return complete(config, "m", signature, "m/config.pbtxt", is_onnx=False, works_row_by_row=lambda: True)[0]


def settings_of(text: str) -> ModelSettings:
    return ModelSettings(**translation.settings(from_text(text, "m/config.pbtxt"), "m/config.pbtxt")[0])


def yaml_of(text: str) -> dict[str, Any]:
    return translation.model_yaml(completed(text), {}, "m/config.pbtxt")[0]


def problem(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read_whole(text)
    return str(caught.value)


def read_whole(text: str) -> None:
    config = completed(text)
    translation.settings(config, "m/config.pbtxt")
    translation.model_yaml(config, {}, "m/config.pbtxt")


# Text and JSON


def test_a_mistake_in_the_text_has_its_line() -> None:
    with pytest.raises(ConfigError, match=r'^m/config.pbtxt:2:\d+ .*"max_batch"'):
        from_text('backend: "paddle"\nmax_batch: 4', "m/config.pbtxt")


def test_json_may_have_long_numbers_as_texts_and_either_spelling() -> None:
    config = from_json(
        '{"max_batch_size": "16", "input": [{"name": "x", "dims": ["13"], "dataType": "TYPE_FP32"}]}', ""
    )
    assert (config.max_batch_size, list(config.input[0].dims)) == (16, [13])


@pytest.mark.parametrize("text", ["{", "[]", '{"max_batch": 1}', '{"max_batch_size": "many"}', "[" * 100_000])
def test_what_is_no_configuration_in_json(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^config of m: "):
        from_json(text, "config of m")


def test_endless_text_is_refused() -> None:
    with pytest.raises(ConfigError, match="at most 1048576"):
        from_text("#" * 2_000_000, "m/config.pbtxt")


def test_json_as_triton_prints_it() -> None:
    text = 'dynamic_batching { max_queue_delay_microseconds: 100 } parameters { key: "a" }'
    printed = as_json(completed(f"max_batch_size: 1 {text} {INPUTS}"))
    assert printed["dynamic_batching"]["max_queue_delay_microseconds"] == 100
    assert printed["input"][0]["dims"] == [13]
    assert printed["input"][0]["data_type"] == "TYPE_FP32"
    assert printed["version_policy"] == {"latest": {"num_versions": 1}}
    assert (printed["max_batch_size"], printed["parameters"]) == (1, {"a": {"string_value": ""}})
    assert (printed["runtime"], printed["metric_tags"], printed["model_warmup"]) == ("", {}, [])
    assert not {"sequence_batching", "ensemble_scheduling", "optimization"} & printed.keys()
    json.dumps(printed)


# What the model's files add


def test_without_a_configuration_all_is_the_models() -> None:
    config = completed("")
    assert (config.name, config.backend, config.max_batch_size) == ("m", "paddle", 4)
    assert config.HasField("dynamic_batching")
    assert [(each.name, list(each.dims)) for each in (*config.input, *config.output)] == [
        ("x", [13]),
        ("ids", [-1]),
        ("y", [1]),
    ]


def test_a_model_with_a_fixed_axis_is_not_batched_by_itself() -> None:
    signature = Signature((TensorSpec("x", "float32", (3, 13), "x"),), (TensorSpec("y", "float32", (3, 1), "y"),))
    config = completed("", signature)
    assert (config.max_batch_size, list(config.input[0].dims)) == (0, [3, 13])
    assert not config.HasField("dynamic_batching")


def test_the_configuration_counts_for_shapes() -> None:
    config = completed("max_batch_size: 8" + INPUTS.replace("dims: [-1]", "dims: [7]"))
    assert [spec.shape for spec in signature_of(config, SIGNATURE).inputs] == [(-1, 13), (-1, 7)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('name: "other"', "name: 'other', in the folder 'm'"),
        ('backend: "tensorrt"', "backend: 'tensorrt' is not served here; expected 'paddle', or 'onnxruntime' for an"),
        ('platform: "onnxruntime"', "'onnxruntime' is not served here; expected 'paddle', or 'onnxruntime_onnx'"),
        ('backend: "onnxruntime"', "'onnxruntime', but the model is Paddle's, which it cannot read; expected 'paddle'"),
        ('platform: "onnxruntime_onnx"', "'onnxruntime', but the model is Paddle's"),
        ('platform: "ensemble"', "platform: 'ensemble'"),
        ("sequence_batching {}", "sequence_batching: "),
        ("model_transaction_policy { decoupled: true }", "decoupled"),
        ("batch_input { target_name: 'n' }", "batch_input: "),
        ("max_batch_size: -1", "max_batch_size: -1"),
        ("max_batch_size: 5000" + INPUTS, "max_batch_size: 5000: at most 4096"),
        ("max_batch_size: 8" + INPUTS.replace('"ids"', '"idx"'), "no 'idx'; did you mean ids?; it has x, ids"),
        ("max_batch_size: 8" + INPUTS.replace("TYPE_INT64", "TYPE_INT32"), "TYPE_INT32, but the model has TYPE_INT64"),
        ("max_batch_size: 8" + INPUTS.replace("[13]", "[1, 13]"), "dims: [1, 13], but the model has [13] after the"),
        ("input { name: 'x' dims: [-1, 13] }", "1 are configured, but the model has x, ids"),
        ("dynamic_batching { preferred_batch_size: 9 } max_batch_size: 8", "preferred_batch_size: 9: expected 1 to"),
        ("dynamic_batching { default_priority_level: 1 }", "default_priority_level: 1: expected 1 to"),
        ("dynamic_batching { priority_levels: 2 }", "default_priority_level: 0: expected 1 to priority_levels, which"),
        ("instance_group [{ kind: KIND_CPU }, { kind: KIND_GPU }]", "all on the CPU, or all on GPUs"),
        ("instance_group { count: 2000 kind: KIND_CPU }", "2000 instances: at most 1024"),
        ("parameters { key: 'padding' value { string_value: '8' } }", "parameters: padding: 8: expected JSON such as"),
        ("instance_group { kind: KIND_MODEL }", "only KIND_CPU and KIND_GPU"),
    ],
)  # fmt: skip
def test_what_cannot_be_served_says_so(text: str, words: str) -> None:
    assert words in problem(text)


# Workers and batching


def test_workers_are_the_instances() -> None:
    settings = settings_of("instance_group [{ count: 2 kind: KIND_CPU }, { kind: KIND_CPU }]")
    assert (settings.min_workers, settings.max_workers, settings.device_type) == (3, None, "cpu")
    settings = settings_of("instance_group { count: 2 kind: KIND_GPU gpus: [0, 2] }")
    assert (settings.min_workers, settings.device_type, settings.device_ids) == (4, "gpu", (0, 2))


def test_batching() -> None:
    settings = settings_of("""
        max_batch_size: 16
        dynamic_batching {
          preferred_batch_size: [8, 4]
          max_queue_delay_microseconds: 1500
          priority_levels: 2
          default_priority_level: 2
          default_queue_policy { timeout_action: DELAY default_timeout_microseconds: 2000000 max_queue_size: 32 }
          priority_queue_policy { key: 1 value { allow_timeout_override: true } }
        }
        response_cache { enable: true }
    """)
    assert (settings.batch_size, settings.preferred_batch_sizes) == (16, (4, 8))
    assert settings.max_batch_delay_seconds == pytest.approx(0.0015)
    assert (settings.priority_levels, settings.default_priority) == (2, 2)
    assert settings.queue_policy == QueuePolicy(
        max_queue_size=32, timeout_seconds=2.0, timeout_action="delay", allow_timeout_override=False
    )
    assert settings.priority_queue_policies == {1: QueuePolicy()}
    assert settings.response_cache is True


# What handlers read


def test_accelerators() -> None:
    assert yaml_of("""
        optimization { execution_accelerators {
          cpu_execution_accelerator {
            name: "mkldnn" parameters { key: "cpu_threads" value: "4" } parameters { key: "capacity" value: "10" }
          }
          gpu_execution_accelerator [
            { name: "tensorrt"
              parameters [{ key: "precision" value: "trt_fp16" }, { key: "workspace_size" value: "1073741824" },
                          { key: "enable_tensorrt_oss" value: "1" }, { key: "is_dynamic" value: "1" }] },
            { name: "min_shape" parameters { key: "x" value: "1 13" } },
            { name: "max_shape" parameters { key: "x" value: "8 13" } },
            { name: "opt_shape" parameters { key: "x" value: "4 13" } }
          ]
        } }
    """)["predictor"] == {
        "onednn": True,
        "threads": 4,
        "onednn_cache_shapes": 10,
        "tensorrt": {
            "precision": "float16",
            "workspace_bytes": 1073741824,
            "oss": True,
            "min_shapes": {"x": [1, 13]},
            "max_shapes": {"x": [8, 13]},
            "opt_shapes": {"x": [4, 13]},
        },
    }  # fmt: skip


ACCELERATOR = "optimization { execution_accelerators { %s } }"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('cpu_execution_accelerator { name: "openvin" }', "paddle; did you mean openvino?"),
        ('cpu_execution_accelerator { name: "openvino" parameters { key: "capacity" value: "1" } }', "'capacity'"),
        ('cpu_execution_accelerator [{ name: "openvino" }, { name: "paddle" }]', "'openvino' is named already"),
        ('cpu_execution_accelerator { name: "mkldnn" parameters { key: "capacity" value: "-1" } }', "capacity: '-1'"),
        ('cpu_execution_accelerator { name: "mkldnn" parameters { key: "threads" } }', "did you mean cpu_threads?"),
        ('gpu_execution_accelerator { name: "tensorrt" parameters { key: "precision" value: "half" } }', "trt_fp16"),
        ('gpu_execution_accelerator { name: "min_shape" parameters { key: "x" value: "1" } }', "min_shape alone"),
        ('gpu_execution_accelerator { name: "trt" }', "'trt': expected one of tensorrt"),
        (
            'cpu_execution_accelerator { name: "paddle" parameters { key: "encryption_key" value: "secret" } }',
            "encryption_key: a key has no place in it: name its file by modelKeyFile",
        ),
    ],
)
def test_wrong_accelerators(text: str, words: str) -> None:
    assert words in problem(ACCELERATOR % text)


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime", "paddle"])
def test_engines_as_fastdeploy_names_them(engine: str) -> None:
    text = f'cpu_execution_accelerator {{ name: "{engine}" parameters {{ key: "cpu_threads" value: "2" }} }}'
    assert yaml_of(ACCELERATOR % text)["predictor"] == {"engine": engine, "threads": 2}


def test_fastdeploys_backend_is_paddles() -> None:
    assert completed('backend: "fastdeploy"').backend == "paddle"


def test_fastdeploys_parameters() -> None:
    """Those that have no meaning here are told."""
    text = """cpu_execution_accelerator { name: "paddle" parameters [
        { key: "use_mkldnn" value: "0" }, { key: "use_paddle_log" value: "1" }, { key: "is_clone" value: "true" }] }"""
    sections, warnings = translation.model_yaml(completed(ACCELERATOR % text), {}, "m/config.pbtxt")
    assert sections["predictor"] == {"engine": "paddle", "onednn": False}
    assert [warning.partition(":")[2].strip().partition(" has no effect")[0] for warning in warnings] == [
        "cpu_execution_accelerator 'paddle': is_clone",
        "cpu_execution_accelerator 'paddle': use_paddle_log",
    ]
    text = 'cpu_execution_accelerator { name: "openvino" parameters { key: "num_streams" value: "2" } }'
    sections, warnings = translation.model_yaml(completed(ACCELERATOR % text), {}, "m/config.pbtxt")
    assert sections["predictor"] == {"engine": "openvino"}
    assert "num_streams has no effect: a worker runs one batch at a time" in warnings[0]


def test_fastdeploys_engines_on_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pdserver.triton.accelerators.gpu_count", lambda: 1)
    assert yaml_of(ACCELERATOR % 'gpu_execution_accelerator { name: "paddle" }')["predictor"] == {}
    text = 'gpu_execution_accelerator { name: "onnxruntime" }'
    assert "ONNX Runtime runs models on CPUs here; expected 'paddle' or 'tensorrt'" in problem(ACCELERATOR % text)


@pytest.mark.parametrize("precision", ["TRT_FP16", "trt_fp16", "FP16"])
@pytest.mark.parametrize("name", ["precision", "precision_mode"])
def test_tensorrts_parameters_as_tritons_other_backends_have_them(name: str, precision: str) -> None:
    text = f"""gpu_execution_accelerator {{ name: "tensorrt" parameters [
        {{ key: "{name}" value: "{precision}" }}, {{ key: "max_workspace_size_bytes" value: "4096" }},
        {{ key: "minimum_segment_size" value: "3" }}] }}"""
    expected = {"precision": "float16", "workspace_bytes": 4096, "min_graph_size": 3}
    assert yaml_of(ACCELERATOR % text)["predictor"] == {"tensorrt": expected}


@pytest.mark.parametrize("names", [["tensorrt"], ["auto_mixed_precision"], ["auto_mixed_precision", "tensorrt"]])
def test_accelerators_of_gpus_are_one_warning_without_any(names: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pdserver.triton.accelerators.gpu_count", lambda: 0)
    text = " ".join(f'gpu_execution_accelerator {{ name: "{name}" }}' for name in names)
    sections, warnings = translation.model_yaml(completed(ACCELERATOR % text), {}, "m/config.pbtxt")
    assert sections["predictor"] == ({"tensorrt": {}} if "tensorrt" in names else {})
    assert warnings == ["m/config.pbtxt: gpu_execution_accelerator has no effect: this machine has no GPU"]


def test_mixed_precision_on_a_gpu_names_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pdserver.triton.accelerators.gpu_count", lambda: 1)
    text = 'gpu_execution_accelerator { name: "auto_mixed_precision" }'
    assert "'tensorrt' with the parameter precision, which is trt_fp16" in problem(ACCELERATOR % text)


def test_what_has_no_effect_is_told() -> None:
    config = completed(ACCELERATOR % 'cpu_execution_accelerator { name: "ort" }')
    sections, warnings = translation.model_yaml(config, {}, "m/config.pbtxt")
    assert sections["predictor"] == {}
    assert "'ort' has no effect" in warnings[0]


def test_what_has_no_effect_on_inputs_is_told() -> None:
    text = INPUTS.replace("dims: [-1]", "dims: [-1] optional: true allow_ragged_batch: true").replace("13", "12")
    config = from_text(f"max_batch_size: 2 metric_tags {{ key: 'a' }} {text}", "m/config.pbtxt")
    assert len(check(config, "m", "m/config.pbtxt")) == 1
    warnings = complete(config, "m", SIGNATURE, "m/config.pbtxt", is_onnx=False, works_row_by_row=lambda: True)[1]
    assert [re.search(r"input '\w+': (\w+)", warning)[1] for warning in warnings] == [  # type: ignore[index]
        "dims", "optional", "allow_ragged_batch",
    ]  # fmt: skip


def test_padding_is_a_parameter() -> None:
    value = '{"value": {"ids": 1}, "buckets": [8, 16]}'
    sections = yaml_of(f"parameters {{ key: 'padding' value {{ string_value: '{value}' }} }}")
    assert (sections["padding"], sections["parameters"]) == ({"value": {"ids": 1}, "buckets": [8, 16]}, {})


def test_warm_up_shapes_and_reshape() -> None:
    sections = yaml_of("""
        max_batch_size: 4
        input [{ name: "x" data_type: TYPE_FP32 dims: [1, 13] reshape { shape: [13] } },
               { name: "ids" data_type: TYPE_INT64 dims: [-1] }]
        output { name: "y" data_type: TYPE_FP32 dims: [1, 1] reshape { shape: [1] } }
        model_warmup { name: "first" batch_size: 2 count: 3
          inputs { key: "x" value { data_type: TYPE_FP32 dims: [1, 13] random_data: true } }
          inputs { key: "ids" value { data_type: TYPE_INT64 dims: [5] input_data_file: "ids.bin" } } }
    """)
    assert sections["predictor"] == {"reshape": {"inputs": {"x": [0, 13]}, "outputs": {"y": [0, 1, 1]}}}
    [sample] = sections["warmup"]
    assert (sample["name"], sample["count"]) == ("first", 3)
    assert sample["inputs"]["x"] == {"dtype": "float32", "shape": [2, 1, 13], "data": "random"}
    assert sample["inputs"]["ids"] == {"dtype": "int64", "shape": [2, 5], "file": "warmup/ids.bin"}
