"""TensorFlow Serving's batching parameters as settings of this server."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import requests

from pdserver.configuration.layers import Layer, build_spec
from pdserver.errors import ConfigError
from pdserver.tfserving.batching import UNASKED, of_version, settings_of
from tests.conftest import MadeOnce
from tests.tfserving.site import Site, made_versions

DOCUMENTED = """
max_batch_size { value: 128 }
batch_timeout_micros { value: 2500 }
max_enqueued_batches { value: 100 }
num_batch_threads { value: 1 }
allowed_batch_sizes: 8
allowed_batch_sizes: 32
allowed_batch_sizes: 128
pad_variable_length_inputs: true
"""
SPLIT = "max_batch_size { value: 128 } enable_large_batch_splitting { value: true } "


def settings(text: str) -> dict[str, Any]:
    """As the engine has them in the end."""
    found = settings_of(text, "batching.txt").settings
    spec = build_spec(
        name="m", version="1", url="", directory="", handler="", manifest={}, model_config={},
        layers=[Layer("file", found)], defaults={},
    )  # fmt: skip
    return {field: getattr(spec, field) for field in found}


def test_what_the_documentation_shows() -> None:
    assert settings(DOCUMENTED) == {
        "batch_size": 128,
        "max_batch_delay_seconds": 0.0025,
        "queue_size": 12_800,
        "allowed_batch_sizes": (8, 32, 128),
        "min_workers": 1,
    }
    assert settings_of(DOCUMENTED, "").sections == {"padding": {"where_possible": True}}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {"batch_size": 1000, "max_batch_delay_seconds": 0.0, "queue_size": 10_000}),
        ("max_batch_size { value: 4 }", {"batch_size": 4, "max_batch_delay_seconds": 0.0, "queue_size": 40}),
        (
            "max_batch_size { value: 4096 } max_enqueued_batches { value: 1000000000 }",
            {"batch_size": 4096, "max_batch_delay_seconds": 0.0, "queue_size": 1_000_000},
        ),
        (
            SPLIT + "max_execution_batch_size { value: 16 } allowed_batch_sizes: [4, 16]",
            {"batch_size": 16, "max_batch_delay_seconds": 0.0, "queue_size": 160, "allowed_batch_sizes": (4, 16)},
        ),
        (SPLIT, {"batch_size": 128, "max_batch_delay_seconds": 0.0, "queue_size": 1280}),
    ],
)
def test_what_is_left_out_is_as_there(text: str, expected: dict[str, Any]) -> None:
    assert settings(text) == expected
    assert settings_of(text, "").sections == {}


def test_a_worker_for_each_thread_but_no_more_than_there_are_processors() -> None:
    found = settings_of("num_batch_threads { value: 1000 }", "batching.txt")
    processors = len(os.sched_getaffinity(0))
    assert found.settings["min_workers"] == processors
    assert f"num_batch_threads: 1000: {processors} workers for each model" in found.warnings[0]


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        ("thread_pool_name { value: 'a' }", "thread_pool_name has no effect"),
        ("max_execution_batch_size { value: 4 }", "no effect without enable_large_batch_splitting"),
    ],
)
def test_what_has_no_effect_is_told(text: str, warning: str) -> None:
    assert warning in " ".join(settings_of(text, "batching.txt").warnings)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_batch_size { value: 0 }", "max_batch_size: 0: expected 1 or more; leave it out for 1000"),
        ("max_batch_size { value: 5000 }", "max_batch_size: 5000: expected a whole number of requests from 1 to 4096"),
        ("batch_timeout_micros { value: -1 }", "batch_timeout_micros: -1: expected a number of milliseconds from 0"),
        ("max_enqueued_batches { value: -4 }", "max_enqueued_batches: -4: expected 1 or more; leave it out for 10"),
        ("num_batch_threads { value: 0 }", "num_batch_threads: 0: expected 1 or more"),
        ("allowed_batch_sizes: [8, 4]", "allowed_batch_sizes: [8, 4]: expected sizes from 1 on that ascend"),
        ("allowed_batch_sizes: [0, 1000]", "allowed_batch_sizes: [0, 1000]: expected sizes from 1 on that ascend"),
        (
            "max_batch_size { value: 16 } allowed_batch_sizes: [4, 8]",
            "allowed_batch_sizes: [4, 8]: the last one must be max_batch_size, which is 16",
        ),
        (
            SPLIT + "max_execution_batch_size { value: 16 } allowed_batch_sizes: [8, 128]",
            "allowed_batch_sizes: [8, 128]: the last one must be max_execution_batch_size, which is 16",
        ),
        (
            SPLIT + "max_execution_batch_size { value: 256 }",
            "max_execution_batch_size: 256: expected at most max_batch_size, which is 128",
        ),
        (
            "max_batch_sise { value: 4 }",
            '1:1 : BatchingParameters has no field "max_batch_sise"; did you mean max_batch',
        ),
        ("\n\nmax_batch_size: 4", "3:17 "),
        ("max_batch_size { value: 4", "1:"),
        ("{" * 100_000, "batching.txt:1"),
    ],
)
def test_mistakes_are_told_with_their_place_and_the_fix(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        settings_of(text, "batching.txt")
    assert str(caught.value).startswith("batching.txt:")
    assert message in str(caught.value)


def test_a_versions_own_parameters(tmp_path: Path) -> None:
    common = settings_of(DOCUMENTED, "")
    assert of_version(tmp_path, common).settings == {**UNASKED.settings, "min_workers": 1}
    (tmp_path / "batching_params.pbtxt").write_text("max_batch_size { value: 10 } num_batch_threads { value: 2 }")
    own = of_version(tmp_path, common)
    assert (own.settings["batch_size"], own.settings["min_workers"]) == (10, 1)
    assert not own.pads
    (tmp_path / "batching_params.pbtxt").write_text("max_batch_sise {}")
    with pytest.raises(ConfigError, match=r"batching_params.pbtxt:1:1 : BatchingParameters has no field"):
        of_version(tmp_path, common)


def test_a_server_takes_those_of_all_models_and_those_of_a_version(
    made_once: MadeOnce, tmp_path_factory: pytest.TempPathFactory
) -> None:
    site = Site(tmp_path_factory.mktemp("batching"), made_versions(made_once))
    site.put(1).joinpath("batching_params.pbtxt").write_text(
        "max_batch_size { value: 10 } allowed_batch_sizes: [5, 10] batch_timeout_micros { value: 2000 }"
    )
    site.put(2)
    site.put(3).joinpath("model-config.yaml").write_text("batchSize: 3\n")
    site.write(site.model("fit", "model_version_policy { all {} }"))
    (site.folder / "batching").write_text("max_batch_size { value: 128 } num_batch_threads { value: 1 }")
    flags = ("--enable_batching", f"--batching_parameters_file={site.folder / 'batching'}")
    with site:
        site.start(f"--model_config_file={site.config}", *flags, "--enable_per_model_batching_parameters")
        management = site.address("management")
        described = requests.get(f"{management}/models/fit/all", timeout=60).json()
        assert {each["modelVersion"]: (each["batchSize"], each["maxBatchDelay"]) for each in described} == {
            "1": (10, 2),
            "2": (32, 0),
            "3": (3, 0),
        }
        answers = [site.ask(f"fit/versions/{version}") for version in (1, 2)]
        assert answers == [1, 2]
