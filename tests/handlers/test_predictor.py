"""Paddle's predictor: both formats, its settings, and falling back from oneDNN."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from pdarchiver import messages
from pdarchiver.manifest import Signature
from pdarchiver.signature import read as read_program
from pdserver.errors import ArchiveUnusable, HandlerFailed, LoadFailed
from pdserver.handlers.runtime.engines.paddle import PaddleModel
from pdserver.handlers.runtime.engines.ways import load_any
from pdserver.handlers.runtime.predictor import Predictor
from pdserver.handlers.runtime.predictor_settings import PredictorSettings, ReshapeSettings
from tests.handlers.conftest import Load, paddle
from tests.handlers.engine_files import predictor_of
from tests.handlers.requests import answer, json
from tests.logged import own_records

ROWS = np.random.default_rng(2).normal(size=(4, 13)).astype(np.float32)
IMAGES = np.random.default_rng(2).normal(size=(3, 1, 8, 8)).astype(np.float32)


def open_model(models: Path, name: str, **settings: Any) -> tuple[Predictor, Signature]:
    path = models / name
    signature = read_program(path).signature
    params = path.with_suffix(".pdiparams")
    predictor = predictor_of(path, params if params.exists() else None, signature, PredictorSettings(**settings))
    return predictor, signature


@pytest.mark.parametrize("name", ["pir/digits.json", "legacy/digits.pdmodel"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"onednn": True},
        {"onednn": False},
        {"onednn": True, "onednn_cache_shapes": 10},
        {"threads": 2, "ir_optim": False},
        {"memory_optim": False},
    ],
    ids=str,
)
def test_both_formats_with_every_setting(models: Path, name: str, settings: dict[str, Any]) -> None:
    predictor, signature = open_model(models, name, **settings)
    known = np.load((models / name).with_suffix(".npz"))
    outputs = predictor.run({"image": known["images"]})
    np.testing.assert_allclose(outputs[signature.outputs[0].name], known["scores"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "onednn"),
    [
        ("pir/digits.json", True),
        ("legacy/digits.pdmodel", True),
        ("pir/linear.json", False),
        ("legacy/linear.pdmodel", False),
    ],
)
def test_onednn_is_on_by_itself_where_there_is_a_convolution(models: Path, name: str, onednn: bool) -> None:
    assert open_model(models, name)[0].onednn is onednn
    assert open_model(models, name, onednn=not onednn)[0].onednn is not onednn


def test_onednn_is_on_by_itself_for_large_weights(models: Path, tmp_path: Path) -> None:
    layer = paddle.nn.Linear(13, 6000)
    spec = [paddle.static.InputSpec([None, 13], "float32", "x")]
    paddle.jit.save(paddle.jit.to_static(layer, input_spec=spec, full_graph=True), str(tmp_path / "large"))
    assert open_model(tmp_path, "large.json")[0].onednn


def test_runs_leave_no_memory_behind(models: Path) -> None:
    """What a run of a tiny model frees is counted by its bytes, and takes pages."""
    predictor, _ = open_model(models, "pir/linear.json")
    row = {"x": ROWS[:1]}
    process = psutil.Process()
    for _ in range(2_000):
        predictor.run(row)
    before = process.memory_info().rss
    for _ in range(3_000):
        predictor.run(row)
    assert process.memory_info().rss - before < 4 * 1024 * 1024


@pytest.mark.parametrize(("name", "size"), [("pir/digits.json", 4 * 1024 * 1024), ("pir/linear.json", 4 * 1024)])
def test_how_much_is_freed_at_once(models: Path, name: str, size: int) -> None:
    flag = "FLAGS_eager_delete_tensor_gb"
    open_model(models, name)
    assert paddle.get_flags(flag)[flag] == size / 2**30


def test_the_operator_says_how_much_is_freed_at_once(models: Path) -> None:
    script = """
import sys
from pathlib import Path
import paddle
from tests.handlers.test_predictor import open_model
open_model(Path(sys.argv[1]), "pir/linear.json")
print(paddle.get_flags("FLAGS_eager_delete_tensor_gb"))
"""
    command = [sys.executable, "-W", "ignore", "-c", script, str(models)]
    environment = {**os.environ, "FLAGS_eager_delete_tensor_gb": "0.5"}
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    assert "0.5" in done.stdout


class Fails:
    """Stands in for Paddle's predictor with oneDNN: some graphs fail only when they run."""

    def __init__(self, owner_of_the_handles: Any) -> None:
        self.owner_of_the_handles = owner_of_the_handles

    def run(self) -> None:
        raise RuntimeError("could not create a primitive")


def test_a_first_run_that_onednn_cannot_do_is_done_without(models: Path, caplog: pytest.LogCaptureFixture) -> None:
    predictor, signature = open_model(models, "pir/digits.json")
    expected = predictor.run({"image": IMAGES})
    again, _ = open_model(models, "pir/digits.json")
    assert isinstance(again._loaded, PaddleModel)
    again._loaded.predictor = Fails(again._loaded.predictor)
    with caplog.at_level(logging.WARNING):
        outputs = again.run({"image": IMAGES})
    name = signature.outputs[0].name
    np.testing.assert_allclose(outputs[name], expected[name], rtol=1e-4, atol=1e-5)
    assert not again.onednn
    assert "digits.json: going on without oneDNN" in caplog.text
    assert "could not create a primitive" in caplog.text


def test_what_is_tried_goes_on_without_onednn_as_well(models: Path) -> None:
    predictor, _ = open_model(models, "pir/digits.json")
    tried: Any = load_any(predictor._way.candidate, PredictorSettings(), None)
    tried._engine.predictor = Fails(tried._engine.predictor)
    expected = predictor.run({"image": IMAGES})
    for _ in range(2):
        for name, array in tried.run({"image": IMAGES}).items():
            np.testing.assert_allclose(array, expected[name], rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match=r"(?i)dimension|shape|rank"):
        tried.run({"image": IMAGES[0]})


@pytest.mark.parametrize("onednn", [True, False])
def test_many_shapes_with_onednn_are_warned_of_once(
    models: Path, caplog: pytest.LogCaptureFixture, onednn: bool
) -> None:
    predictor, _ = open_model(models, "pir/colours.json", onednn=onednn)
    with caplog.at_level(logging.WARNING):
        for width in range(1, 64):
            predictor.run({"image": np.zeros((1, 3, 2, width), np.float32)})
            predictor.run({"image": np.zeros((2, 3, 2, width), np.float32)})
        assert not own_records(caplog)
        for width in range(64, 140):
            predictor.run({"image": np.zeros((1, 3, 2, width), np.float32)})
    assert caplog.text.count("inputs of 64 shapes so far; oneDNN prepares its operations for each") == onednn


def test_inputs_that_no_predictor_takes_are_no_reason_to_fall_back(
    models: Path, caplog: pytest.LogCaptureFixture
) -> None:
    predictor, _ = open_model(models, "pir/digits.json")
    loaded = predictor._loaded
    message = r'input "image": expected float32 of shape \[any, 1, 8, 8\], got float32 of shape \[1, 3, 5, 5\]'
    with caplog.at_level(logging.WARNING), pytest.raises(HandlerFailed, match=message):
        predictor.run({"image": np.zeros((1, 3, 5, 5), np.float32)})
    assert predictor.onednn
    assert predictor._loaded is loaded
    assert not own_records(caplog)
    assert predictor.run({"image": IMAGES})


def test_arrays_of_any_layout_and_kindred_dtype(models: Path) -> None:
    predictor, signature = open_model(models, "pir/linear.json")
    name = signature.outputs[0].name
    expected = predictor.run({"x": ROWS})[name]
    read_only = np.frombuffer(ROWS.tobytes(), np.float32).reshape(ROWS.shape)
    for array in (ROWS.astype(np.float64), np.asfortranarray(ROWS), np.repeat(ROWS, 2, axis=0)[::2], read_only):
        np.testing.assert_array_equal(predictor.run({"x": array})[name], expected)
    with pytest.raises(HandlerFailed, match='input "x": expected float32, got complex128'):
        predictor.run({"x": ROWS.astype(complex)})


def test_other_shapes_outside_than_inside(models: Path) -> None:
    _, signature = open_model(models, "pir/linear.json")
    name = signature.outputs[0].name
    shapes = ReshapeSettings(inputs={"x": [0, -1]}, outputs={name: [0, 1, 1]})
    reshaping, _ = open_model(models, "pir/linear.json", reshape=shapes)
    plain, _ = open_model(models, "pir/linear.json")
    outputs = reshaping.run({"x": ROWS[:, None]})
    np.testing.assert_array_equal(outputs[name], plain.run({"x": ROWS})[name][:, None])
    with pytest.raises(HandlerFailed, match=rf'"{name}" of shape \[4, 1\] cannot become \[0, 2\]'):
        open_model(models, "pir/linear.json", reshape=ReshapeSettings(outputs={name: [0, 2]}))[0].run({"x": ROWS})


def test_a_batch_without_rows_never_reaches_paddle(models: Path) -> None:
    predictor, _ = open_model(models, "pir/linear.json")
    with pytest.raises(HandlerFailed, match="has no elements"):
        predictor.run({"x": ROWS[:0]})
    assert predictor.run({"x": ROWS})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"thread": 2}, r"predictor.thread: unknown setting; did you mean threads\?"),
        ({"threads": 0}, "predictor.threads: 0: Expected `int` >= 1"),
        ({"onednn": "yes"}, "predictor.onednn: yes: expected true, false or auto"),
        ({"engine": "openvio"}, r"engine: openvio: expected auto, .* or openvino; did you mean openvino\?"),
        ({"engine": None}, "predictor.engine: None: expected auto, paddle, onnxruntime or openvino"),
        ({"tensorrt": {"precision": "fp16"}}, "predictor.tensorrt: .*precision"),
        ({"reshape": {"input": {}}}, "predictor.reshape: .*input"),
        ({"reshape": {"inputs": {"X1": [0, 13]}}}, r"reshape.inputs: the model has no input X1 \(it has x\)"),
        ({"reshape": {"outputs": {"y": [0, 1]}}}, "reshape.outputs: the model has no output y"),
        ({"memory_optim": True}, "predictor.memory_optim: true: Paddle cannot do this for .json models"),
    ],
    ids=str,
)
def test_settings_that_cannot_be(load: Load, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(LoadFailed, match=message):
        load("pir/linear.json", config={"predictor": settings})


def test_settings_of_the_models_yaml_are_used(load: Load) -> None:
    service = load("legacy/linear.pdmodel", config={"predictor": {"memory_optim": True, "onednn": True, "threads": 1}})
    assert answer(service.run([json(ROWS[0])])[0])


def test_a_gpu_that_is_not_there(load: Load) -> None:
    with pytest.raises(LoadFailed, match=r"built without CUDA; install paddlepaddle-gpu|there is no GPU 99"):
        load("pir/linear.json", device_id=99)


def test_an_archive_without_a_model(load: Load) -> None:
    with pytest.raises(LoadFailed, match="the manifest has no model file: pack the model with pd-model-archiver"):
        load(None)


def test_a_folder_of_paddle_1(models: Path, tmp_path: Path) -> None:
    model, weights = tmp_path / "__model__", tmp_path / "__params__"
    shutil.copy(models / "legacy/linear.pdmodel", model)
    shutil.copy(models / "legacy/linear.pdiparams", weights)
    signature = read_program(model).signature
    found = predictor_of(model, weights, signature, PredictorSettings()).run({"x": ROWS})
    expected = open_model(models, "legacy/linear.pdmodel")[0].run({"x": ROWS})
    name = signature.outputs[0].name
    np.testing.assert_array_equal(found[name], expected[name])


def test_damaged_files(models: Path, tmp_path: Path) -> None:
    signature = read_program(models / "pir/linear.json").signature
    program = tmp_path / "linear.json"
    program.write_bytes((models / "pir/linear.json").read_bytes())
    weights = tmp_path / "linear.pdiparams"
    with pytest.raises(ArchiveUnusable, match=r"linear.pdiparams: no such file"):
        predictor_of(program, weights, signature, PredictorSettings())
    weights.write_bytes(b"\0" * 7)
    with pytest.raises(LoadFailed, match=r"linear.json: paddle cannot load it: "):
        predictor_of(program, weights, signature, PredictorSettings(onednn=True))


def test_an_operation_that_this_paddle_lacks_is_an_error_that_names_a_paddle_that_has_it(
    models: Path, tmp_path: Path
) -> None:
    program = messages.decode("ProgramDesc", (models / "legacy/linear.pdmodel").read_bytes())
    for operation in program.blocks[0].ops:
        if operation.type not in ("feed", "fetch"):
            operation.type = "of_another_time"
    program.version.version = 1_008_004
    model = tmp_path / "__model__"
    model.write_bytes(program.SerializeToString())
    weights = Path(shutil.copy(models / "legacy/linear.pdiparams", tmp_path / "__params__"))
    signature = read_program(model).signature
    with pytest.raises(LoadFailed, match=r"cannot load it \(Paddle 1\.8\.4 has saved it and Paddle 2\.6 can"):
        predictor_of(model, weights, signature, PredictorSettings())
