"""Per-model settings in their three spellings, the YAML that strangers write, and how the layers make a spec."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdarchiver.safe_yaml import MAX_YAML_BYTES
from pdserver.configuration.layers import Layer, build_spec, parse_model_config, parse_parameters, parse_settings
from pdserver.configuration.model import MODEL_SETTINGS, ModelSpec, PartialSettings, QueuePolicy
from pdserver.configuration.table import Setting
from pdserver.errors import ConfigError, InvalidRequest

ALL = {
    "min_workers": 1,
    "max_workers": 4,
    "batch_size": 8,
    "max_batch_delay_seconds": 0.0025,
    "response_timeout_seconds": 30.0,
    "startup_timeout_seconds": 60.5,
    "queue_size": 10,
    "queue_policy": QueuePolicy(
        max_queue_size=5, timeout_seconds=1.5, timeout_action="delay", allow_timeout_override=False
    ),
    "priority_levels": 3,
    "default_priority": 2,
    "priority_queue_policies": {1: QueuePolicy(max_queue_size=7)},
    "preferred_batch_sizes": (2, 4),
    "allowed_batch_sizes": (1, 4, 8),
    "response_cache": True,
    "device_type": "gpu",
    "device_ids": (0, 3),
    "service_envelope": "json",
    "decode_input_request": False,
    "limit_max_image_pixels": False,
    "model_key_file": "model.key",
    "use_venv": True,
    "client_timeout_seconds": 1.5,
    "use_job_ticket": True,
    "max_retry_timeout_seconds": 60.0,
    "sequence_batching": True,
    "max_sequences": 4,
    "sequence_queue_size": 2,
    "sequence_max_idle_seconds": 5.0,
    "sequence_timeout_seconds": 60.0,
    "continuous_batching": True,
    "queue_bytes": 1_000_000,
    "retry_on_worker_death": False,
    "isolate_failures": False,
    "max_worker_deaths": 3,
    "worker_deaths_window_seconds": 10.0,
    "probe_interval_seconds": 0.5,
    "max_requests_per_worker": 0,
    "max_worker_memory_bytes": 0,
}
WRITTEN = {
    "minWorkers": 1,
    "maxWorkers": 4,
    "batchSize": 8,
    "maxBatchDelay": 2.5,
    "responseTimeout": 30,
    "startupTimeout": 60.5,
    "jobQueueSize": 10,
    "queuePolicy": {"maxQueueSize": 5, "timeout": 1500, "timeoutAction": "delay", "allowTimeoutOverride": False},
    "priorityLevels": 3,
    "defaultPriority": 2,
    "priorityQueuePolicies": {"1": {"maxQueueSize": 7}},
    "preferredBatchSizes": [4, 2],
    "allowedBatchSizes": [1, 4, 8],
    "responseCache": True,
    "deviceType": "gpu",
    "deviceIds": [0, 3],
    "serviceEnvelope": "json",
    "decodeInputRequest": False,
    "limitMaxImagePixels": False,
    "modelKeyFile": "model.key",
    "useVenv": True,
    "clientTimeoutInMills": 1500,
    "useJobTicket": True,
    "maxRetryTimeoutInSec": 60,
    "sequenceBatching": True,
    "maxNumSequence": 4,
    "maxSequenceJobQueueSize": 2,
    "sequenceMaxIdleMSec": 5000,
    "sequenceTimeoutMSec": 60000,
    "continuousBatching": True,
    "jobQueueBytes": 1_000_000,
    "retryOnWorkerDeath": False,
    "isolateFailures": False,
    "maxWorkerDeaths": 3,
    "workerDeathsWindow": 10,
    "probeInterval": 0.5,
    "maxRequestsPerWorker": 0,
    "maxWorkerMemoryMb": 0,
}


def test_every_setting_is_read() -> None:
    assert WRITTEN.keys() == MODEL_SETTINGS.keys()
    assert parse_settings(WRITTEN, "here") == ALL
    assert parse_settings({}, "here") == {}


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("minWorkers", -1, "here: minWorkers=-1: expected a whole number of workers from 0 to 1024"),
        ("maxWorkers", 1025, "here: maxWorkers=1025: expected a whole number of workers from 0 to 1024"),
        ("batchSize", True, "here: batchSize=True: expected a whole number of requests from 1 to 4096"),
        ("batchSize", "4", "here: batchSize=4: expected a whole number"),
        ("batchSize", 4.0, "here: batchSize=4.0: expected a whole number"),
        ("batchSize", None, "here: batchSize=None: expected a whole number"),
        ("maxBatchDelay", float("nan"), "here: maxBatchDelay=nan: expected a number of milliseconds from 0 to 3600000"),
        ("responseTimeout", float("inf"), "here: responseTimeout=inf: expected a number of seconds from 0.001"),
        ("deviceType", "tpu", "here: deviceType=tpu: expected cpu or gpu"),
        ("deviceType", ["gpu"], "here: deviceType=['gpu']: expected cpu or gpu"),
        ("deviceIds", 0, "here: deviceIds=0: expected a list of different whole numbers"),
        ("deviceIds", [0, 0], "here: deviceIds=[0, 0]: expected a list of different"),
        ("deviceIds", [True], "here: deviceIds=[True]: expected a list"),
        ("deviceIds", [-1], "here: deviceIds=[-1]: expected a list"),
        ("queuePolicy", {"timeoutAction": "drop"}, "here: queuePolicy={'timeoutAction': 'drop'}: timeoutAction: drop:"),
        (
            "queuePolicy",
            {"timeouts": 1},
            "here: queuePolicy={'timeouts': 1}: unknown key timeouts; did you mean timeout",
        ),
        ("queuePolicy", [], "here: queuePolicy=[]: expected a mapping with maxQueueSize, timeout"),
        ("priorityQueuePolicies", {0: {}}, "here: priorityQueuePolicies={0: {}}: 0: expected a priority from 1 to"),
        ("preferredBatchSizes", [0], "here: preferredBatchSizes=[0]: expected a list of batch sizes"),
        ("maxBatchDelays", 1, "here: unknown key maxBatchDelays; did you mean maxBatchDelay?"),
        ("handler", "x", "here: unknown key handler"),
    ],
)
def test_a_bad_setting_is_named_with_what_was_expected(key: str, value: object, problem: str) -> None:
    with pytest.raises(ConfigError, match="^" + re.escape(problem)):
        parse_settings({key: value}, "here")


def test_parameters_are_torchserves_and_others_are_left_to_the_caller() -> None:
    params = {
        "min_worker": "1",
        "max_worker": "4",
        "batch_size": "8",
        "max_batch_delay": "100",
        "response_timeout": "30",
        "startup_timeout": "60.5",
        "url": "digits.pdar",
        "batchSize": "9",
    }
    assert parse_parameters(params, "POST /models") == {
        "min_workers": 1,
        "max_workers": 4,
        "batch_size": 8,
        "max_batch_delay_seconds": 0.1,
        "response_timeout_seconds": 30.0,
        "startup_timeout_seconds": 60.5,
    }


@pytest.mark.parametrize("text", ["dd", "", "-1", "1e3", "4 ", "٤", "0", "9" * 400, "4\n"])
def test_a_bad_parameter_is_an_invalid_request(text: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^POST /models: batch_size=.*expected a whole number of requests"):
        parse_parameters({"batch_size": text}, "POST /models")


# The model's own YAML


def test_a_model_config_has_settings_and_the_handlers_own_keys() -> None:
    text = b"""
    batchSize: 8
    maxBatchDelay: 5
    image: {resize: 256, mean: [0.5, 0.5, 0.5]}
    inputs: {x: features}
    outputs: {fetch_name_0: price}
    handler: {name: mine}
    predictor: {threads: 2}
    top_k: 3
    workers: [a, b]
    '1': number
    """
    settings, config = parse_model_config(text, "digits.pdar: model-config.yaml")
    assert settings == {"batch_size": 8, "max_batch_delay_seconds": 0.005}
    assert config["image"] == {"resize": 256, "mean": [0.5, 0.5, 0.5]}
    assert config["batchSize"] == 8
    assert len(config) == 10


def test_an_empty_model_config_says_nothing() -> None:
    assert parse_model_config(b"# nothing yet\n", "here") == ({}, {})


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"batch_size: 4", "here: unknown key batch_size; did you mean batchSize?"),
        (b"BATCHSIZE: 4", "here: unknown key BATCHSIZE; did you mean batchSize?"),
        (b"maxWorker: 4", "here: unknown key maxWorker; did you mean maxWorkers?"),
        (b"responseTimeOut: 4", "here: unknown key responseTimeOut; did you mean responseTimeout?"),
        (b"modelKeyFile: model.key", "here: modelKeyFile: only the operator may say this"),
        (b"batchSize: four", "here: batchSize=four: expected a whole number"),
        (b"[1, 2]", "here: expected keys and values (batchSize: 4), found a list"),
        (b"words", "here: expected keys and values (batchSize: 4), found a str"),
        (b"a: 1\nb: [", "here:2: "),
        (b"a: 1\nbatchSize: 1\nbatchSize: 2", "here:3: key 'batchSize' is given twice"),
        (b"image:\n  size: 1\n  size: 2", "here:3: key 'size' is given twice"),
        (b"a: &a [x, x]\nb: &b [*a, *a]", "here:2: aliases (*name) are not accepted"),
        (b"a: &a [*a]", "here:1: aliases (*name) are not accepted"),
        (b"a: !!python/object/apply:os.system [id]", "here:1: could not determine a constructor"),
        (b"? [a]\n: 1", "here:1: found unhashable key"),
        (b"a: \xff", "here: not YAML"),
        (b"a: 1\n---\nb: 2", "here:2: but found another document"),
        (b"a: 2001-99-99", "here: not YAML"),
        (b"a: " + b"9" * 10_000, "here: not YAML"),
        (b"a: " + b"[" * 100_000, "here: nested too deeply"),
        (b"a" * (MAX_YAML_BYTES + 1), f"here: {MAX_YAML_BYTES + 1} bytes of YAML"),
    ],
    ids=lambda value: value[:30] if isinstance(value, bytes) else "",
)
def test_a_bad_model_config_is_refused_with_its_reason(text: bytes, problem: str) -> None:
    with pytest.raises(ConfigError, match="^" + re.escape(problem)) as caught:
        parse_model_config(text, "here")
    assert len(str(caught.value)) < 300


@given(st.binary(max_size=100) | st.text(alphabet='ab:-[]{}&*!|>?,"\n 1', max_size=30).map(str.encode))
def test_any_bytes_give_a_model_config_or_a_config_error(text: bytes) -> None:
    config: dict[Any, Any] = {}
    problem = "here"
    try:
        _, config = parse_model_config(text, "here")
    except ConfigError as error:
        problem = str(error)
    assert isinstance(config, dict)
    assert problem.startswith("here")


# Layers


def spec(*layers: PartialSettings, defaults: PartialSettings | None = None) -> ModelSpec:
    names = ("register call", "config.properties", "model-config.yaml")
    manifest: dict[str, Any] = {"model": {"modelName": "digits"}}
    return build_spec(
        name="digits",
        version="1.0",
        url="digits.pdar",
        directory="/somewhere",
        handler="image_classifier",
        manifest=manifest,
        model_config={"top_k": 3},
        layers=[Layer(where, settings) for where, settings in zip(names, layers, strict=False)],
        defaults=defaults or {"min_workers": 1, "queue_size": 100},
    )


def test_without_a_word_the_servers_defaults_hold() -> None:
    defaults = {
        "min_workers": 3, "queue_size": 7, "response_timeout_seconds": 9.0, "startup_timeout_seconds": 8.0
    }  # fmt: skip
    result = spec(defaults=defaults)
    assert (result.min_workers, result.max_workers, result.queue_size) == (3, None, 7)
    assert (result.response_timeout_seconds, result.startup_timeout_seconds) == (9.0, 8.0)
    assert (result.batch_size, result.max_batch_delay_seconds, result.device_type) == (1, 0.0, "cpu")
    assert (result.name, result.handler, result.model_config) == ("digits", "image_classifier", {"top_k": 3})


def test_the_first_layer_that_says_something_wins_each_setting_by_itself() -> None:
    result = spec(
        {"batch_size": 1},
        {"batch_size": 2, "max_batch_delay_seconds": 0.0},
        {"batch_size": 3, "max_batch_delay_seconds": 0.5, "queue_size": 5},
    )
    assert (result.batch_size, result.max_batch_delay_seconds, result.queue_size) == (1, 0.0, 5)


def test_workers_by_default_fit_each_other() -> None:
    assert spec({"min_workers": 2}).max_workers is None, "nothing was said of a limit"
    two = spec({"max_workers": 2}, defaults={"min_workers": 4})
    assert (two.min_workers, two.max_workers) == (2, 2)
    assert spec({"max_workers": 4}).min_workers == 1


def test_contradictions_name_both_sides_and_where_they_come_from() -> None:
    with pytest.raises(ConfigError) as caught:
        spec({"min_workers": 3}, {}, {"max_workers": 2})
    assert str(caught.value) == (
        "model digits version 1.0: minWorkers=3 (register call) is more than maxWorkers=2 (model-config.yaml):"
        " lower the one or raise the other"
    )
    with pytest.raises(ConfigError, match=r"deviceIds=\[0\] \(config.properties\) with deviceType=cpu \(default\)"):
        spec({}, {"device_ids": (0,)})
    assert spec({"device_type": "gpu", "device_ids": (1,)}).device_ids == (1,)


def test_a_spec_crosses_to_the_worker_as_it_is() -> None:
    whole = spec(ALL)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(whole), type=ModelSpec) == whole
    assert {field: getattr(whole, field) for field in ALL} == ALL


def written_default(row: Setting) -> str:
    """What holds for a setting of a model of which no source says anything, as the documentation has it."""
    if row.fallback or row.default is None or isinstance(row.default, str):
        return row.fallback or row.default or "none"
    return json.dumps(row.default)


def test_the_documentation_has_every_setting_with_its_default() -> None:
    document = (Path(__file__).parent.parent / "docs" / "configuration.md").read_text()
    for row in MODEL_SETTINGS.values():
        assert f"| `{row.name}` | `{written_default(row)}` | {row.help} |\n" in document
