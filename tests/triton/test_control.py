"""Loading and unloading by Triton's own client; each test has a model of its own."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from tritonclient import grpc
from tritonclient.http import InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from pdarchiver import signature
from tests.conftest import FIT, run_script
from tests.onnx_files import linear
from tests.running import eventually
from tests.triton.conftest import Repository
from tests.triton.folders import add_version, configure

ANY_LENGTH = """
import sys, paddle
spec = [paddle.static.InputSpec([None, None], "float32", "x")]
paddle.jit.save(paddle.jit.to_static(paddle.nn.ReLU(), input_spec=spec), sys.argv[1] + "/relu")
"""


def refused(repository: Repository, name: str, **how: object) -> str:
    with pytest.raises(InferenceServerException) as caught:
        repository.client.load_model(name, **how)
    return str(caught.value)


def test_a_model_of_the_onnx_runtime_backend(repository: Repository) -> None:
    weight = np.arange(26, dtype=np.float32).reshape(13, 2)
    (repository.folder / "linear" / "1").mkdir(parents=True)
    linear(repository.folder / "linear" / "1" / "model.onnx", weight)
    configure(repository.folder, 'backend: "onnxruntime" max_batch_size: 8', "linear")
    repository.client.load_model("linear")
    assert repository.client.get_model_metadata("linear")["platform"] == "onnxruntime_onnx"
    assert repository.client.get_model_config("linear")["backend"] == "onnxruntime"
    x = np.random.default_rng(0).random((3, 13), np.float32)
    given = InferInput("x", [3, 13], "FP32").set_data_from_numpy(x)
    np.testing.assert_allclose(repository.client.infer("linear", [given]).as_numpy("y"), x @ weight, rtol=1e-4)


def test_a_models_life(repository: Repository, fit_model: Path) -> None:
    for version in ("1", "2", "3"):
        add_version(repository.folder, fit_model, "life", version)
    configure(repository.folder, "max_batch_size: 8 version_policy { latest { num_versions: 2 } }", "life")
    assert {"name": "life"} in repository.client.get_model_repository_index()
    assert not repository.client.is_model_ready("life")
    repository.client.load_model("life")
    assert repository.states("life") == {"2": "READY", "3": "READY"}
    repository.infer("life", rows=8)
    repository.infer("life", "2")
    assert repository.client.get_model_metadata("life", "2")["inputs"] == [
        {"name": "x", "datatype": "FP32", "shape": [-1, 13]}
    ]
    assert repository.server.describe("life")["modelVersion"] == "3"
    repository.client.unload_model("life")
    assert repository.states("life") == {"2": "UNAVAILABLE", "3": "UNAVAILABLE"}
    with pytest.raises(InferenceServerException, match="unknown model: 'life' has no available versions"):
        repository.infer("life")
    repository.client.load_model("life")
    repository.infer("life")


def test_without_a_config_the_model_says_it_all(repository: Repository, fit_model: Path) -> None:
    add_version(repository.folder, fit_model, "plain")
    repository.client.load_model("plain")
    config = repository.client.get_model_config("plain")
    assert (config["backend"], config["max_batch_size"]) == ("paddle", 4)
    assert [(each["name"], each["data_type"], each["dims"]) for each in config["input"]] == [("x", "TYPE_FP32", [13])]
    assert "dynamic_batching" in config
    repository.infer("plain", rows=4)
    with pytest.raises(InferenceServerException, match="batch-size must be <= 4"):
        repository.infer("plain", rows=5)


BACKENDS_OWN = """
name: "backends_own"
backend: "paddle"
max_batch_size: 8
input [{ name: "x" data_type: TYPE_FP32 dims: [ 13 ] }]
output [{ name: "OUTPUT" data_type: TYPE_FP32 dims: [ 1 ] }]
instance_group [{ count: 1 kind: KIND_CPU }]
optimization {
  execution_accelerators {
    cpu_execution_accelerator : [
      { name : "mkldnn" parameters { key: "cpu_threads" value: "2" } parameters { key: "capacity" value: "10" } }
    ]
  }
}
"""


@pytest.fixture(scope="module")
def old_form(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with fit.pdmodel, as `fit_model` but for the form, and relu.pdmodel."""
    folder = tmp_path_factory.mktemp("old_form")
    run_script("-c", FIT + ANY_LENGTH, folder, FLAGS_enable_pir_api="0")
    return folder


def test_a_folder_as_tritons_paddle_backend_has_it(repository: Repository, old_form: Path) -> None:
    version = repository.folder / "backends_own" / "1"
    version.mkdir(parents=True)
    for suffix in (".pdmodel", ".pdiparams"):
        shutil.copy(old_form / f"fit{suffix}", version / f"model{suffix}")
    [output] = signature.read(version / "model.pdmodel").signature.outputs
    configure(repository.folder, BACKENDS_OWN.replace("OUTPUT", output.name), "backends_own")
    repository.client.load_model("backends_own")
    assert repository.infer("backends_own", rows=8).shape == (8, 1)


def test_requests_of_different_lengths_share_a_run(repository: Repository, old_form: Path) -> None:
    version = repository.folder / "padded" / "1"
    version.mkdir(parents=True)
    shutil.copy(old_form / "relu.pdmodel", version / "model.pdmodel")
    padding = 'parameters { key: "padding" value { string_value: "{}" } }'
    batching = "max_batch_size: 4 dynamic_batching { max_queue_delay_microseconds: 10000000 preferred_batch_size: 2 }"
    configure(repository.folder, f"{batching} {padding}", "padded")
    repository.client.load_model("padded")

    def ask(length: int) -> list[list[float]]:
        with contextlib.closing(repository.new_client()) as client:
            given = InferInput("x", [1, length], "FP32")
            given.set_data_from_numpy(np.ones((1, length), np.float32))
            result = client.infer("padded", [given])
            answer: list[list[float]] = result.as_numpy(result.get_response()["outputs"][0]["name"]).tolist()
            return answer

    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(ask, (3, 5))) == [[[1.0] * 3], [[1.0] * 5]]
    [stats] = repository.client.get_inference_statistics("padded")["model_stats"]
    assert (stats["inference_count"], stats["execution_count"]) == (2, 1)


def test_a_model_without_batching_takes_any_length_of_its_first_axis(repository: Repository, fit_model: Path) -> None:
    add_version(repository.folder, fit_model, "whole")
    configure(repository.folder, "input { name: 'x' data_type: TYPE_FP32 dims: [-1, 13] }", "whole")
    repository.client.load_model("whole")
    assert repository.client.get_model_config("whole")["max_batch_size"] == 0
    repository.infer("whole", rows=50)


EMPTY = (0, 13)


def test_an_input_without_elements_is_the_clients_mistake(repository: Repository, fit_model: Path) -> None:
    """Of a model without batching, which takes any length of its first axis: but Paddle runs none without elements."""
    add_version(repository.folder, fit_model, "empty")
    configure(repository.folder, "input { name: 'x' data_type: TYPE_FP32 dims: [-1, 13] }", "empty")
    repository.client.load_model("empty")
    words = r'input "x" has no elements: shape \[0, 13\]: send at least one'
    for binary in (True, False):
        given = InferInput("x", EMPTY, "FP32").set_data_from_numpy(np.zeros(EMPTY, np.float32), binary_data=binary)
        with pytest.raises(InferenceServerException, match=words) as caught:
            repository.client.infer("empty", [given])
        assert caught.value.status() == "400"
    with grpc.InferenceServerClient(repository.server.grpc_inference) as client:
        given = grpc.InferInput("x", EMPTY, "FP32").set_data_from_numpy(np.zeros(EMPTY, np.float32))
        with pytest.raises(InferenceServerException, match=words) as caught:
            client.infer("empty", [given])
        assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
    repository.infer("empty", rows=2)


def test_a_configuration_may_come_with_the_call(repository: Repository, fit_model: Path) -> None:
    add_version(repository.folder, fit_model, "tuned")
    configure(repository.folder, "max_batch_size: 8", "tuned")
    given = {"maxBatchSize": "16", "instance_group": [{"count": "2", "kind": "KIND_CPU"}]}
    repository.client.load_model("tuned", config=json.dumps(given))
    config = repository.client.get_model_config("tuned")
    assert (config["max_batch_size"], config["instance_group"][0]["count"]) == (16, 2)
    assert len(repository.server.pids("tuned")) == 2
    repository.client.load_model("tuned")
    assert repository.client.get_model_config("tuned")["max_batch_size"] == 8


def test_the_configuration_is_told_as_it_was_given(repository: Repository, fit_model: Path) -> None:
    add_version(repository.folder, fit_model, "told")
    text = """
        max_batch_size: 8
        version_policy { all {} }
        dynamic_batching { preferred_batch_size: 4 max_queue_delay_microseconds: 100 }
        parameters { key: "team" value { string_value: "prices" } }
        model_warmup { name: "z" inputs { key: "x" value { data_type: TYPE_FP32 dims: 13 zero_data: true } } }
    """
    configure(repository.folder, text, "told")
    repository.client.load_model("told")
    config = repository.client.get_model_config("told")
    assert config["version_policy"] == {"all": {}}
    assert config["parameters"] == {"team": {"string_value": "prices"}}
    assert config["dynamic_batching"]["preferred_batch_size"] == [4]
    assert config["model_warmup"][0]["inputs"]["x"]["dims"] == [13]
    assert "sequence_batching" not in config
    repository.server.manage("PUT", "/models/told?batch_size=2&max_batch_delay=7").raise_for_status()
    config = repository.client.get_model_config("told")
    assert (config["max_batch_size"], config["dynamic_batching"]["max_queue_delay_microseconds"]) == (2, 7000)


def private_folders(name: str) -> list[Path]:
    return list(Path(os.environ["XDG_STATE_HOME"]).glob(f"pdserver/run-*/loaded/{name}-*"))


def test_a_models_files_may_come_with_the_call(repository: Repository, fit_model: Path) -> None:
    name = f"brought{os.getpid()}"  # other tests on this machine have their servers' folders in the same place
    files = {
        "file:7/model.json": (fit_model / "fit.json").read_bytes(),
        "file:7/model.pdiparams": (fit_model / "fit.pdiparams").read_bytes(),
    }
    repository.client.load_model(name, config='{"backend": "paddle"}', files=files)
    repository.infer(name, "7")
    assert len(private_folders(name)) == 1
    assert "config" in refused(repository, name, files=files)
    assert "failed to poll from model repository" in refused(
        repository, name, config="{}", files={"file:1/" + "x" * 256: b""}
    )
    assert "failed to poll from model repository" in refused(repository, name, config="{}", files={"file:../../x": b""})
    repository.infer(name, "7")
    repository.client.unload_model(name)
    assert private_folders(name) == []


def test_the_same_over_grpc(repository: Repository, fit_model: Path) -> None:
    files = {
        "file:1/model.json": (fit_model / "fit.json").read_bytes(),
        "file:1/model.pdiparams": (fit_model / "fit.pdiparams").read_bytes(),
    }
    with grpc.InferenceServerClient(repository.server.grpc_inference) as client:
        client.load_model("over_grpc", config='{"max_batch_size": 2}', files=files)
        assert client.get_model_config("over_grpc").config.max_batch_size == 2
        with pytest.raises(
            InferenceServerException, match="failed to load 'wrong', failed to poll from model repository"
        ):
            client.load_model("wrong")
        client.unload_model("over_grpc")
        states = {entry.name: entry.state for entry in client.get_model_repository_index().models}
    assert states["over_grpc"] == "UNAVAILABLE"


def test_only_versions_that_a_policy_adds_or_leaves_out_change(repository: Repository, fit_model: Path) -> None:
    for version in ("1", "2", "3"):
        add_version(repository.folder, fit_model, "policy", version)
    configure(repository.folder, "max_batch_size: 8", "policy")
    repository.client.load_model("policy")
    [newest] = repository.server.pids("policy")
    configure(repository.folder, "max_batch_size: 8 version_policy { all {} }", "policy")
    repository.client.load_model("policy")
    assert repository.states("policy") == {"1": "READY", "2": "READY", "3": "READY"}
    assert repository.server.pids("policy") == {newest}, "of the default version, 3, which was there"
    for version in ("1", "3"):
        assert repository.client.get_model_config("policy", version)["version_policy"] == {"all": {}}
    configure(repository.folder, "max_batch_size: 8 version_policy { specific { versions: [1, 3] } }", "policy")
    repository.client.load_model("policy")
    assert repository.states("policy") == {"1": "READY", "2": "UNAVAILABLE", "3": "READY"}
    assert repository.server.pids("policy") == {newest}
    assert repository.client.get_model_config("policy")["version_policy"] == {"specific": {"versions": [1, 3]}}


def counts(repository: Repository, name: str) -> tuple[int, int, int, int]:
    [stats] = repository.client.get_inference_statistics(name)["model_stats"]
    success = stats["inference_stats"]["success"]
    return stats["inference_count"], stats["execution_count"], success["count"], len(stats["batch_stats"])


def test_statistics_begin_anew_with_a_reload_and_metrics_go_on(repository: Repository, fit_model: Path) -> None:
    version = add_version(repository.folder, fit_model, "counted")
    repository.client.load_model("counted")
    repository.infer("counted", rows=3)
    assert counts(repository, "counted") == (3, 1, 1, 1)
    (version / "model.json").touch()
    repository.client.load_model("counted")
    [stats] = repository.client.get_inference_statistics("counted")["model_stats"]
    assert counts(repository, "counted") == (0, 0, 0, 0)
    assert stats["last_inference"] == 0
    assert {times["ns"] for times in stats["inference_stats"].values()} == {0}
    repository.infer("counted", rows=2)
    repository.infer("counted", rows=3)
    assert counts(repository, "counted") == (5, 2, 2, 2)
    assert repository.server.metric("nv_inference_count_total", model="counted") == 8


def test_a_model_without_versions_says_so(repository: Repository, fit_model: Path) -> None:
    add_version(repository.folder, fit_model, "gone")
    repository.client.load_model("gone")
    repository.client.unload_model("gone")
    version = add_version(repository.folder, fit_model, "never")
    (version / "model.json").write_text("{}")
    refused(repository, "never")
    with grpc.InferenceServerClient(repository.server.grpc_inference) as client:
        for name in ("gone", "never"):
            words = f"Request for unknown model: '{name}' has no available versions"
            for ask in (
                lambda name=name: repository.infer(name),
                lambda name=name: repository.client.get_model_metadata(name),
                lambda name=name: client.get_model_config(name),
                lambda name=name: client.get_inference_statistics(name),
            ):
                with pytest.raises(InferenceServerException, match=words):
                    ask()
            assert not client.is_model_ready(name)
    with pytest.raises(InferenceServerException, match="'nobody' is not found"):
        repository.infer("nobody")


def test_clients_read_of_files_by_their_place_in_the_model(repository: Repository, fit_model: Path) -> None:
    """Not by where the server keeps them, nor of options of a packer that they have not called."""
    brought = {
        "model.json": ("brought/1/model.json: a JSON file, but not a Paddle model", b"{}"),
        "notes.txt": ("brought/1: no model in this folder", b""),
        "model.pdiparams": ("brought/1: no model in this folder", b""),
    }
    for file, (words, content) in brought.items():
        said = refused(repository, "brought", config="{}", files={f"file:1/{file}": content})
        assert f"failed to load 'brought', version 1 is at UNAVAILABLE state: {words}" in said
        [entry] = [entry for entry in repository.client.get_model_repository_index() if entry["name"] == "brought"]
        assert words in entry["reason"]
        for text in (said, entry["reason"]):
            assert "/loaded/" not in text
            assert "--" not in text
    model = (fit_model / "fit.json").read_bytes()
    said = refused(repository, "brought", config="{}", files={"file:1/model.json": model})
    assert "brought/1/model.json: the model has 2 parameters, but there is no model.pdiparams beside it; put it" in said
    said = refused(repository, "brought", config='{"default_model_filename": "x.json"}', files={"file:1/y": b""})
    assert "brought/1/x.json: no such file" in said
    for config in ("{nope", '{"max_batch_size": "many"}'):
        assert "failed to load 'brought', load parameter 'config'" in refused(repository, "brought", config=config)


def test_what_cannot_be_loaded_says_why(repository: Repository, fit_model: Path) -> None:
    assert "failed to load 'wrong', failed to poll from model repository" in refused(repository, "wrong")
    configure(repository.folder, "", "no_version")
    assert "failed to load 'no_version', no version is available" in refused(repository, "no_version")
    configure(repository.folder, "max_batch: 1", "mistyped")
    assert "mistyped/config.pbtxt:1:1 " in refused(repository, "mistyped")
    version = add_version(repository.folder, fit_model, "damaged")
    (version / "model.json").write_text("{}")
    assert "version 1 is at UNAVAILABLE state: " in refused(repository, "damaged")
    [entry] = [entry for entry in repository.client.get_model_repository_index() if entry["name"] == "damaged"]
    assert entry["state"] == "UNAVAILABLE"
    assert "model.json" in entry["reason"]
    assert "expected 'config' or 'file:" in repository.server.session.post(
        f"{repository.server.inference}/v2/repository/models/fit/load", json={"parameters": {"force": True}}, timeout=60
    ).json()["error"]  # fmt: skip


def test_nothing_is_lost_while_a_version_is_replaced(repository: Repository, fit_model: Path) -> None:
    version = add_version(repository.folder, fit_model, "busy")
    repository.client.load_model("busy")
    before = repository.server.pids("busy")
    answered, stop = [], threading.Event()

    def ask() -> None:
        with contextlib.closing(repository.new_client()) as client:
            while not stop.is_set():
                repository.infer("busy", client=client)
                answered.append(True)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        for _ in range(2):
            count = len(answered)
            (version / "model.json").touch()
            repository.client.load_model("busy")
            eventually(partial(_more_than, answered, count + 3))
    finally:
        stop.set()
        asking.join()
    after = repository.server.pids("busy")
    assert len(after) == 1
    assert not after & before
    repository.client.load_model("busy")
    assert repository.server.pids("busy") == after, "nothing had changed"


def _more_than(found: list[bool], count: int) -> bool:
    return len(found) > count


def test_what_cannot_replace_a_version_leaves_it(repository: Repository, fit_model: Path) -> None:
    version = add_version(repository.folder, fit_model, "lasting")
    repository.client.load_model("lasting")
    pids = repository.server.pids("lasting")
    weights = (version / "model.pdiparams").read_bytes()
    (version / "model.pdiparams").write_bytes(weights[: len(weights) // 2])
    assert "failed to load 'lasting'" in refused(repository, "lasting")
    configure(repository.folder, "model_warmup { name: 'w' inputs { key: 'y' value { dims: 1 } } }", "lasting")
    (version / "model.pdiparams").write_bytes(weights)
    assert "warmup w: the model has no input y" in refused(repository, "lasting")
    repository.infer("lasting")
    assert repository.server.pids("lasting") == pids
    assert repository.states("lasting") == {"1": "READY"}


def test_instances_alone_are_scaled(repository: Repository, fit_model: Path) -> None:
    add_version(repository.folder, fit_model, "scaled")
    configure(repository.folder, "instance_group { count: 1 kind: KIND_CPU }", "scaled")
    repository.client.load_model("scaled")
    before = repository.server.pids("scaled")
    configure(repository.folder, "instance_group { count: 2 kind: KIND_CPU }", "scaled")
    repository.client.load_model("scaled")
    after = repository.server.pids("scaled")
    assert len(after) == 2
    assert before < after


def test_a_version_without_workers_is_loaded_again(repository: Repository, fit_model: Path) -> None:
    add_version(repository.folder, fit_model, "idle")
    repository.client.load_model("idle")
    repository.server.manage("PUT", "/models/idle?min_worker=0&synchronous=true").raise_for_status()
    assert repository.states("idle") == {"1": "UNAVAILABLE"}
    repository.client.load_model("idle")
    repository.infer("idle")


def test_classes_have_the_names_of_the_label_file(repository: Repository, fit_model: Path) -> None:
    add_version(repository.folder, fit_model, "labelled")
    repository.client.load_model("labelled")
    output = repository.client.get_model_config("labelled")["output"][0]["name"]
    outputs = f'output {{ name: "{output}" data_type: TYPE_FP32 dims: 1 label_filename: "labels.txt" }}'
    configure(repository.folder, f"max_batch_size: 2 {outputs}", "labelled")
    (repository.folder / "labelled" / "labels.txt").write_text("price\n")
    repository.client.load_model("labelled")
    given = InferInput("x", [1, 13], "FP32")
    given.set_data_from_numpy(np.zeros((1, 13), np.float32))
    answer = repository.client.infer("labelled", [given], outputs=[InferRequestedOutput(output, class_count=1)])
    [[text]] = answer.as_numpy(output)
    assert text.endswith(b":0:price")


def test_the_cache_answers_what_was_asked_before(repository: Repository, fit_model: Path) -> None:
    add_version(repository.folder, fit_model, "cached")
    configure(repository.folder, "max_batch_size: 4 response_cache { enable: true }", "cached")
    repository.client.load_model("cached")
    first = repository.infer("cached", rows=2)
    again = repository.infer("cached", rows=2)
    assert (first == again).all()
    repository.infer("cached", rows=3)
    [stats] = repository.client.get_inference_statistics("cached")["model_stats"]
    assert (stats["inference_count"], stats["execution_count"]) == (5, 2)
    counts = {name: times["count"] for name, times in stats["inference_stats"].items()}
    assert (counts["success"], counts["queue"], counts["compute_infer"]) == (3, 3, 2)
    assert (counts["cache_hit"], counts["cache_miss"]) == (1, 2)
    assert repository.server.metric("nv_cache_num_hits_per_model_total", model="cached") == 1
    assert repository.server.metric("nv_cache_num_misses_per_model_total", model="cached") == 2
