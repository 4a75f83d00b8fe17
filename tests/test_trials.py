"""Engines are also tried for encrypted models, for several in one process, and in lower precisions by samples."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import yaml

from pdarchiver.pack import PackOptions, pack
from pdarchiver.signature import read
from pdserver.handlers.runtime.engines import precisions
from pdserver.handlers.runtime.engines.base import Precision
from tests.encrypting import encrypted
from tests.handlers.conftest import models as models
from tests.handlers.engine_files import INPUTS, paddles_answers
from tests.handlers.engine_files import both as both
from tests.running import RunningServer

IMAGES = INPUTS["digits"]["image"]
LOWER: list[Precision] = [name for name in ("bfloat16", "float16") if precisions.has_instructions(name)]
PIPELINE = """
inputs: {image: "float32[-1, 1, 8, 8]"}
outputs: {first: first.scores, second: second.scores}
batched: true
fuse: yes
nodes:
  first: {archive: digits.pdar, inputs: {image: image}}
  second: {archive: other.pdar, inputs: {image: image}}
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, both: Path, models: Path) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("trials")
    store = folder / "store"
    store.mkdir()
    digits = both / "digits.pdmodel"
    samples = folder / "samples.npy"
    np.save(samples, IMAGES)
    precise = {"predictor": {"precision": "auto"}}
    packed(store, "lower", digits, {**precise, "samples": [{"image": samples.name}]})
    packed(store, "blind", digits, precise)
    reshape = {"inputs": {"image": [0, 1, 8, 8]}, "outputs": {}}
    packed(store, "reshaped", digits, {"predictor": {"reshape": reshape}})
    in_a_row(store, models / "legacy")
    pipeline = store / "fused"
    pipeline.mkdir()
    (pipeline / "pipeline.yaml").write_text(PIPELINE)
    for name in ("digits", "other"):
        packed(folder / name, name, digits, {"batchSize": 4, "outputs": {names(digits)[1]: "scores"}}).rename(
            pipeline / f"{name}.pdar"
        )
    settings = {"model_key_file": str(encrypted(digits, folder / "encrypted", store, "hidden", "image"))}
    loaded = "lower.pdar,reshaped.pdar,row.pdar,hidden.pdar,fused"
    with RunningServer(folder / "server", store, loaded, settings) as started:
        yield started


def packed(store: Path, name: str, model: Path, config: dict[str, Any]) -> Path:
    store.mkdir(exist_ok=True)
    written = store.parent / f"{name}.yaml"
    written.write_text(yaml.safe_dump({"batchSize": 8, **config}))
    return pack(
        PackOptions(
            model_name=name,
            version="1.0",
            serialized_file=model,
            config_file=written,
            export_path=store,
        )
    )


def names(model: Path) -> tuple[str, str]:
    """Of a model's first input and output."""
    found = read(model).signature
    return found.inputs[0].name, found.outputs[0].name


def in_a_row(store: Path, legacy: Path) -> None:
    """`linear` and then `halved`."""
    for place, model, (feeds, fetches) in (
        ("first", "linear", ("x", "money")),
        ("second", "halved", ("money", "last")),
    ):
        folder = store.parent / place
        folder.mkdir()
        for file in legacy.glob(f"{model}.pd*"):
            shutil.copy(file, folder)
        given, gives = names(legacy / f"{model}.pdmodel")
        (folder / "serving_server_conf.prototxt").write_text(
            f'feed_var {{ name: "{given}" alias_name: "{feeds}" }}\n'
            f'fetch_var {{ name: "{gives}" alias_name: "{fetches}" }}\n'
        )
    config = store.parent / "row.yaml"
    config.write_text("sequence: {models: [first, second]}\nbatchSize: 4\n")
    folders = tuple(str(store.parent / place) for place in ("first", "second"))
    pack(
        PackOptions(
            model_name="row", version="1.0", handler="sequence", config_file=config, extra_files=folders,
            export_path=store,
        )
    )  # fmt: skip


def trials(described: dict[str, Any]) -> list[list[str]]:
    """The engines of each trial; all of them gave the right answers."""
    found = described["engineTrials"]
    assert [each.get("out") for trial in found for each in trial["engines"]] == [None] * sum(
        len(trial["engines"]) for trial in found
    )
    return [[each["engine"] for each in trial["engines"]] for trial in found]


@pytest.mark.parametrize("model", ["hidden", "reshaped"])
def test_models_that_are_not_as_they_are_packed(server: RunningServer, both: Path, model: str) -> None:
    assert trials(server.describe(model)) == [["paddle", "openvino"]]
    (answer,) = server.predict(model, json=IMAGES[0].tolist()).json().values()
    np.testing.assert_allclose(answer, paddles_answers(both, "digits")[0][0], rtol=1e-4, atol=1e-6)


def test_models_in_a_row(server: RunningServer) -> None:
    """Both are tried before the first one is loaded."""
    assert trials(server.describe("row")) == [["paddle", "openvino"]] * 2
    assert server.predict("row", json=[1.0] * 13).status_code == 200


def test_fused_nodes(server: RunningServer, both: Path) -> None:
    nodes = [node for node in server.describe("fused")["nodes"] if node["node"] in ("first", "second")]
    assert [trials(node) for node in nodes] == [[["paddle", "openvino"]]] * 2
    tensor = {"name": "image", "datatype": "FP32", "shape": [5, 1, 8, 8], "data": IMAGES.ravel().tolist()}
    answer = requests.post(f"{server.inference}/v2/models/fused/infer", json={"inputs": [tensor]}, timeout=60)
    assert answer.status_code == 200, answer.text
    wanted = paddles_answers(both, "digits")[0]
    for output in answer.json()["outputs"]:
        np.testing.assert_allclose(np.reshape(output["data"], wanted.shape), wanted, rtol=1e-4, atol=1e-6)


def test_further_workers_take_all_of_them_from_memory(server: RunningServer) -> None:
    """Also of the encrypted model, whose files in the clear are others in each worker."""
    before = server.log().count("for the trial's samples")
    for model in ("hidden", "row"):
        url = f"{server.management}/models/{model}?min_worker=2&synchronous=true"
        assert requests.put(url, timeout=60).status_code == 200
    assert server.log().count("for the trial's samples") == before


def test_lower_precisions_are_tried_by_samples(server: RunningServer, both: Path) -> None:
    """Whichever is chosen, its answers to the samples are near Paddle's."""
    [trial] = server.describe("lower")["engineTrials"]
    tried = [each["engine"] for each in trial["engines"]]
    assert tried[:2] == ["paddle", "openvino"]
    assert set(tried[2:]) == {
        f"{engine} ({precision})"
        for precision in LOWER
        for engine in ("paddle", "openvino")
        if precision in precisions.ABLE[engine]
    }
    assert all(each["difference"] < 2e-2 for each in trial["engines"] if "out" not in each)
    for image, wanted in zip(IMAGES, paddles_answers(both, "digits")[0], strict=True):
        (answer,) = server.predict("lower", json=image.tolist()).json().values()
        np.testing.assert_allclose(answer, wanted, atol=2e-2)
        assert np.argmax(answer) == np.argmax(wanted)


def test_a_precision_is_not_chosen_without_samples(server: RunningServer) -> None:
    answer = server.manage("POST", "/models?url=blind.pdar")
    assert answer.status_code == 400, answer.text
    assert "predictor.precision: auto: the archive has no samples" in answer.text
