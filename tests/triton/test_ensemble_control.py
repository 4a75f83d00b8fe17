"""Ensembles of a repository, asked and controlled by Triton's own clients; each test has models of its own."""

from __future__ import annotations

import contextlib
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from tritonclient import grpc
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from tests.conftest import pack_handler
from tests.running import eventually
from tests.triton import folders
from tests.triton.conftest import Repository
from tests.triton.folders import add_version, configure, output_of

Floats = NDArray[np.float32]
ENSEMBLE = """
platform: "ensemble"
max_batch_size: 4
input { name: "TEXT" data_type: TYPE_STRING dims: 1 }
output { name: "PRICE" data_type: TYPE_FP32 dims: 1 label_filename: "labels.txt" }
ensemble_scheduling {
  step {
    model_name: "NAME_split" model_version: -1
    input_map { key: "text" value: "TEXT" } output_map { key: "x" value: "row" }
  }
  step {
    model_name: "NAME_fit" model_version: -1
    input_map { key: "x" value: "row" } output_map { key: "OUTPUT" value: "PRICE" }
  }
}
"""

ONE_STEP = (
    ENSEMBLE.partition("step {")[0]
    + """
  step {
    model_name: "INNER" model_version: -1
    input_map { key: "TEXT" value: "TEXT" } output_map { key: "PRICE" value: "PRICE" }
  }
}
"""
)


def add_split(repository: Repository, name: str, config: str = 'backend: "python" max_batch_size: 8') -> None:
    """A step in Python: the archive of a handler, in the folder of a version."""
    folder = repository.folder / name / "1"
    folder.mkdir(parents=True)
    shutil.move(pack_handler(folder, "splitter", name="splitter"), folder / "model.pdar")
    configure(repository.folder, config, name)


def add_ensemble(repository: Repository, fit_model: Path, name: str) -> None:
    """`name`, of the models NAME_split and NAME_fit."""
    add_split(repository, f"{name}_split")
    add_version(repository.folder, fit_model, f"{name}_fit")
    configure(repository.folder, "max_batch_size: 8", f"{name}_fit")
    text = ENSEMBLE.replace("NAME", name).replace("OUTPUT", output_of(fit_model))
    folders.add_ensemble(repository.folder, text, name)
    (repository.folder / name / "labels.txt").write_text("price\n")


def rows(count: int) -> tuple[Floats, NDArray[np.object_]]:
    """Numbers, and as text."""
    x = np.random.default_rng(count).normal(size=(count, 13)).astype(np.float32).round(3)
    return x, np.array([[",".join(map(str, row)).encode()] for row in x.tolist()], dtype=object)


def ask(
    repository: Repository,
    name: str,
    count: int = 2,
    *,
    client: InferenceServerClient | None = None,
    **how: object,
) -> Floats:
    """Whether what comes back is what the weights say is asserted here."""
    x, texts = rows(count)
    given = InferInput("TEXT", list(texts.shape), "BYTES").set_data_from_numpy(texts)
    result = (client or repository.client).infer(name, [given], **how)
    answer: Floats = result.as_numpy("PRICE")
    np.testing.assert_allclose(answer, repository.expected(x), rtol=1e-4, atol=1e-5)
    return answer


def refused(repository: Repository, name: str, **how: object) -> str:
    with pytest.raises(InferenceServerException) as caught:
        repository.client.load_model(name, **how)
    return str(caught.value)


def test_an_ensembles_life(repository: Repository, fit_model: Path) -> None:
    add_ensemble(repository, fit_model, "life")
    repository.client.load_model("life")
    for name in ("life", "life_split", "life_fit"):
        assert repository.states(name) == {"1": "READY"}
        assert repository.client.is_model_ready(name)
    ask(repository, "life")
    ask(repository, "life", 4, model_version="1", outputs=[InferRequestedOutput("PRICE")], request_id="r")
    x, texts = rows(2)
    given = InferInput("TEXT", [2, 1], "BYTES").set_data_from_numpy(texts)
    likeliest = repository.client.infer("life", [given], outputs=[InferRequestedOutput("PRICE", class_count=1)])
    for [text], [price] in zip(likeliest.as_numpy("PRICE"), repository.expected(x), strict=True):
        value, *rest = text.decode().split(":")
        assert (round(float(value), 3), rest) == (round(float(price), 3), ["0", "price"])
    with pytest.raises(InferenceServerException, match="batch-size must be <= 4 for 'life'"):
        ask(repository, "life", 5)
    metadata = repository.client.get_model_metadata("life")
    assert metadata["platform"] == "ensemble"
    assert metadata["inputs"] == [{"name": "TEXT", "datatype": "BYTES", "shape": [-1, 1]}]
    assert metadata["outputs"] == [{"name": "PRICE", "datatype": "FP32", "shape": [-1, 1]}]
    config = repository.client.get_model_config("life")
    assert (config["platform"], config["max_batch_size"], config["instance_group"]) == ("ensemble", 4, [])
    assert config["ensemble_scheduling"]["step"][0] == {
        "model_name": "life_split",
        "model_version": -1,
        "input_map": {"text": "TEXT"},
        "output_map": {"x": "row"},
        "model_namespace": "",
    }
    split = repository.client.get_model_config("life_split")
    assert (split["backend"], split["max_batch_size"]) == ("python", 8)
    assert [(each["name"], each["data_type"], each["dims"]) for each in split["input"]] == [
        ("text", "TYPE_STRING", [1])
    ]
    for name in ("life", "life_split", "life_fit"):
        [stats] = repository.client.get_inference_statistics(name)["model_stats"]
        assert (stats["inference_stats"]["success"]["count"], stats["inference_count"]) == (3, 8)
    with grpc.InferenceServerClient(repository.server.grpc_inference) as client:
        x, texts = rows(3)
        given = grpc.InferInput("TEXT", list(texts.shape), "BYTES").set_data_from_numpy(texts)
        answer = client.infer("life", [given]).as_numpy("PRICE")
        np.testing.assert_allclose(answer, repository.expected(x), rtol=1e-4, atol=1e-5)
        assert client.get_model_config("life").config.ensemble_scheduling.step[1].model_name == "life_fit"
        bad = grpc.InferInput("TEXT", [1, 1], "BYTES").set_data_from_numpy(np.array([[b"no"]], dtype=object))
        with pytest.raises(InferenceServerException, match="no numbers") as caught:
            client.infer("life", [bad])
        assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"


def test_unloading_an_ensemble_and_its_models(repository: Repository, fit_model: Path) -> None:
    """As Triton has it: its models stay, unless they are to go as well and nobody has asked for them."""
    add_ensemble(repository, fit_model, "gone")
    repository.client.load_model("gone")
    repository.client.unload_model("gone")
    assert repository.states("gone") == {"1": "UNAVAILABLE"}
    assert repository.states("gone_fit") == {"1": "READY"}
    repository.client.load_model("gone")
    repository.client.load_model("gone_fit")
    repository.client.unload_model("gone", unload_dependents=True)
    assert repository.states("gone_split") == {"1": "UNAVAILABLE"}
    assert repository.states("gone_fit") == {"1": "READY"}, "somebody has loaded it"


def test_an_ensemble_follows_its_models(repository: Repository, fit_model: Path) -> None:
    add_ensemble(repository, fit_model, "tied")
    repository.client.load_model("tied")
    repository.client.unload_model("tied_fit")
    [entry] = [entry for entry in repository.client.get_model_repository_index() if entry["name"] == "tied"]
    assert entry["state"] == "UNAVAILABLE"
    assert entry["reason"] == "ensemble 'tied' depends on 'tied_fit' which has no loaded version"
    assert not repository.client.is_model_ready("tied")
    repository.client.load_model("tied_fit")
    ask(repository, "tied")
    configure(repository.folder, "max_batch_size: 2", "tied_fit")
    repository.client.load_model("tied_fit")
    [entry] = [entry for entry in repository.client.get_model_repository_index() if entry["name"] == "tied"]
    assert "ensemble tied allows maximum batch size 4, but it contains model tied_fit which only" in entry["reason"]
    configure(repository.folder, "max_batch_size: 4", "tied_fit")
    repository.client.load_model("tied_fit")
    ask(repository, "tied", 4)
    config = (repository.folder / "tied" / "config.pbtxt").read_text()
    configure(repository.folder, config.replace('value: "row"', 'value: "rows"', 1), "tied")
    assert "ensemble tensor 'row' is not written; did you mean rows?" in refused(repository, "tied")
    ask(repository, "tied", 4)


def test_nothing_is_lost_while_a_steps_model_is_replaced(repository: Repository, fit_model: Path) -> None:
    add_ensemble(repository, fit_model, "busy")
    repository.client.load_model("busy")
    before = repository.server.pids("busy_fit")
    answered: list[int] = []
    stop = threading.Event()

    def keep_asking() -> None:
        with contextlib.closing(repository.new_client()) as client:
            while not stop.is_set():
                ask(repository, "busy", 2, client=client)
                answered.append(1)

    with ThreadPoolExecutor(2) as threads:
        asking = [threads.submit(keep_asking) for _ in range(2)]
        try:
            for _ in range(2):
                count = len(answered)
                (repository.folder / "busy_fit" / "1" / "model.json").touch()
                repository.client.load_model("busy_fit")
                eventually(partial(_more_than, answered, count + 3))
        finally:
            stop.set()
        for each in asking:
            each.result()
    assert not repository.server.pids("busy_fit") & before


def _more_than(found: list[int], count: int) -> bool:
    return len(found) > count


def test_what_cannot_be_loaded_says_why(repository: Repository, fit_model: Path) -> None:
    add_ensemble(repository, fit_model, "wrong")
    shutil.rmtree(repository.folder / "wrong_split")
    assert (
        "ensemble 'wrong' depends on 'wrong_split' which has no loaded version. Model 'wrong_split' loading failed "
        "with error: failed to load 'wrong_split', failed to poll from model repository"
    ) in refused(repository, "wrong")
    add_split(repository, "wrong_split", 'backend: "python"')
    assert "ensemble wrong allows maximum batch size 4, but it contains model wrong_split which" in refused(
        repository, "wrong"
    )
    (repository.folder / "wrong_split" / "1" / "model.pdar").rename(
        repository.folder / "wrong_split" / "1" / "model.py"
    )
    said = refused(repository, "wrong_split")
    assert "backend: 'python': pack the code as a handler with pd-model-archiver" in said
    circle = ONE_STEP.replace("INNER", "OTHER").replace('label_filename: "labels.txt"', "")
    for name, other in (("one", "two"), ("two", "one")):
        folders.add_ensemble(repository.folder, circle.replace("OTHER", other), name)
    assert "circular dependency between ensembles: one -> two -> one" in refused(repository, "one")


def test_a_step_may_be_an_archive_of_the_store(repository: Repository, fit_model: Path) -> None:
    add_ensemble(repository, fit_model, "mixed")
    shutil.rmtree(repository.folder / "mixed_split")
    store = Path(repository.server.settings["model_store"])
    pack_handler(store, "splitter", name="mixed_split", config="batchSize: 4")
    repository.client.load_model("mixed")
    ask(repository, "mixed", 4)
    assert repository.states("mixed_split") == {"1.0": "READY"}
    repository.client.unload_model("mixed", unload_dependents=True)
    assert repository.states("mixed_split") == {}, "it is in the store, and not loaded"


def test_files_that_a_call_brings_are_no_code(repository: Repository, fit_model: Path) -> None:
    add_split(repository, "code")
    content = (repository.folder / "code" / "1" / "model.pdar").read_bytes()
    said = refused(repository, "brought_code", config="{}", files={"file:1/model.pdar": content})
    assert "Python code is not accepted from the network" in said


def test_an_ensemble_may_be_the_step_of_another(repository: Repository, fit_model: Path) -> None:
    add_ensemble(repository, fit_model, "inner")
    folders.add_ensemble(repository.folder, ONE_STEP.replace("INNER", "inner"), "outer")
    (repository.folder / "outer" / "labels.txt").write_text("")
    repository.client.load_model("outer")
    ask(repository, "outer", 3)
    for name in ("inner", "inner_split"):
        [stats] = repository.client.get_inference_statistics(name)["model_stats"]
        assert stats["inference_count"] == 3
