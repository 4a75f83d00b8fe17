"""Each engine gives Paddle's answers, says why it can't run a model, and gives way to another one."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pdarchiver.manifest import Signature
from pdarchiver.signature import read as read_program
from pdserver.errors import ArchiveUnusable, ConfigError, HandlerFailed, InvalidRequest, LoadFailed, PdError
from pdserver.handlers.runtime.described import Described
from pdserver.handlers.runtime.engines import candidates, onnxruntime, precisions
from pdserver.handlers.runtime.engines.candidates import Converted, ModelFiles
from pdserver.handlers.runtime.engines.onnxruntime import OnnxRuntimeModel
from pdserver.handlers.runtime.engines.ways import Way
from pdserver.handlers.runtime.predictor import Predictor
from pdserver.handlers.runtime.predictor_settings import PredictorSettings
from pdserver.handlers.runtime.rows import Arrays
from pdserver.system.devices import cpu_flags
from tests.handlers.engine_files import INPUTS, paddles_answers, predictor_of
from tests.handlers.engine_files import both as both
from tests.logged import own_records
from tests.onnx_files import FLOAT, node, weights
from tests.onnx_files import model as onnx

BFLOAT16_CPU = bool(cpu_flags() & {"avx512_bf16", "amx_bf16"})


def opened(path: Path, **settings: Any) -> Predictor:
    params = path.with_suffix(".pdiparams")
    beside = params if params.exists() and path.suffix != ".onnx" else None
    return predictor_of(path, beside, read_program(path).signature, PredictorSettings(**settings))


def answers(predictor: Predictor, inputs: Arrays) -> list[Any]:
    """The outputs in their order; the engines' names for them differ."""
    return list(predictor.run(inputs).values())


@pytest.mark.parametrize(
    ("engine", "suffix"), [("openvino", ".pdmodel"), ("openvino", ".onnx"), ("onnxruntime", ".onnx")]
)
@pytest.mark.parametrize("name", ["linear", "digits", "words"])
def test_the_answers_are_paddles(both: Path, name: str, engine: str, suffix: str) -> None:
    """Of several sizes one after the other, and none is changed by the next run."""
    paddle, other = opened(both / f"{name}.pdmodel"), opened(both / f"{name}{suffix}", engine=engine)
    assert (paddle.engine, other.engine) == ("paddle", engine)
    inputs = INPUTS[name]
    sizes = [1, 5, 3]
    found = [answers(other, {key: array[:size] for key, array in inputs.items()}) for size in sizes]
    for size, outputs in zip(sizes, found, strict=True):
        expected = answers(paddle, {key: array[:size] for key, array in inputs.items()})
        for one, wanted in zip(outputs, expected, strict=True):
            assert (one.dtype, one.shape) == (wanted.dtype, wanted.shape)
            np.testing.assert_allclose(one, wanted, rtol=1e-4, atol=1e-6)


def test_tensors_of_bfloat16(both: Path) -> None:
    predictor = opened(both / "doubled.onnx", engine="openvino")
    [found] = answers(predictor, INPUTS["doubled"])
    assert found.dtype == np.float32
    wanted = np.array([[2, -1, 6.28125], [2e30, 0, -14]])
    np.testing.assert_allclose(found, wanted, rtol=2**-8)  # as exact as bfloat16 is


@pytest.mark.parametrize("engine", ["paddle", "openvino"])
def test_computing_in_bfloat16(both: Path, engine: str) -> None:
    model = both / "digits.pdmodel"
    if not BFLOAT16_CPU:
        with pytest.raises(ConfigError, match=r"predictor.precision: bfloat16: this CPU has no instructions for it"):
            opened(model, engine=engine, precision="bfloat16")
        return
    predictor = opened(model, engine=engine, precision="bfloat16")
    assert predictor.engine == f"{engine} (bfloat16)"
    [found], [wanted] = answers(predictor, INPUTS["digits"]), answers(opened(model), INPUTS["digits"])
    np.testing.assert_allclose(found, wanted, rtol=5e-2, atol=5e-3)


@pytest.mark.parametrize(
    ("engine", "suffix"), [("openvino", ".pdmodel"), ("openvino", ".onnx"), ("onnxruntime", ".onnx")]
)
@pytest.mark.parametrize("number", [-1, 10])
def test_numbers_that_are_no_rows_of_an_embedding(both: Path, engine: str, suffix: str, number: int) -> None:
    """OpenVINO takes them for rows of zeros, ONNX Runtime counts those below 0 from the end."""
    predictor = opened(both / f"words{suffix}", engine=engine)
    inputs = {**INPUTS["words"], "ids": INPUTS["words"]["ids"].copy()}
    inputs["ids"][2, 3] = number
    with pytest.raises(InvalidRequest, match=r"from 0 to 9.* got (-1|10) at \[2\]\[3\]"):
        predictor.run(inputs)
    assert predictor.run(INPUTS["words"])


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_inputs_of_other_shapes_and_types(both: Path, engine: str) -> None:
    predictor = opened(both / "linear.onnx", engine=engine)
    with pytest.raises(HandlerFailed, match=r'"x": expected float32 of shape \[any, 13\], got .* \[2, 12\]'):
        predictor.run({"x": np.zeros((2, 12), np.float32)})
    with pytest.raises(HandlerFailed, match='"x": expected float32, got complex128'):
        predictor.run({"x": np.zeros((2, 13), complex)})
    with pytest.raises(HandlerFailed, match="has no elements"):
        predictor.run({"x": np.zeros((0, 13), np.float32)})
    read_only = np.frombuffer(INPUTS["linear"]["x"].tobytes(), np.float32).reshape(5, 13)
    assert answers(predictor, {"x": read_only})[0].shape == (5, 1)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("columns", [12, 14])
def test_open_axes_that_an_operation_does_not_take(tmp_path: Path, engine: str, columns: int) -> None:
    """OpenVINO's compiled models would read from beyond the inputs."""
    product = tmp_path / "product.onnx"
    weight = np.ones((13, 2), np.float32)
    nodes = [node("MatMul", ["x", "weight"], ["y"])]
    whole = onnx([("x", FLOAT, ["n", "k"])], [("y", FLOAT, ["n", 2])], nodes, [weights("weight", weight)])
    product.write_bytes(whole)
    predictor = opened(product, engine=engine)
    for rows in (1, 3, 1):
        with pytest.raises(InvalidRequest, match=r"cannot run with .*([Ii]ncompatible|dimension)"):
            predictor.run({"x": np.ones((rows, columns), np.float32)})
        np.testing.assert_array_equal(
            predictor.run({"x": np.ones((rows, 13), np.float32)})["y"], np.full((rows, 2), 13)
        )


def test_an_engine_that_cannot_load_a_model_gives_way_to_the_next(both: Path, caplog: pytest.LogCaptureFixture) -> None:
    """ONNX Runtime's arrays know no bfloat16."""
    model = both / "doubled.onnx"
    with caplog.at_level(logging.WARNING):
        predictor = opened(model)
    assert predictor.engine == "openvino"
    [record] = own_records(caplog)
    assert "doubled.onnx: going on without onnxruntime, with openvino" in record.getMessage()
    with pytest.raises(LoadFailed, match='"x" is bfloat16, which ONNX Runtime neither takes'):
        opened(model, engine="onnxruntime")


def test_so_does_one_that_lacks_a_module(both: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it does if it is installed by half."""

    def load(*_: object) -> None:
        raise ModuleNotFoundError("No module named 'coloredlogs'", name="coloredlogs")

    monkeypatch.setattr(onnxruntime, "load", load)
    assert opened(both / "linear.onnx").engine == "openvino"
    with pytest.raises(ModuleNotFoundError):
        opened(both / "linear.onnx", engine="onnxruntime")


def test_so_does_one_that_cannot_run_it(
    both: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OnnxRuntimeModel, "run", lambda model, inputs: 1 / 0)
    predictor, named = opened(both / "linear.onnx"), opened(both / "linear.onnx", engine="onnxruntime")
    with caplog.at_level(logging.WARNING):
        found = predictor.run(INPUTS["linear"])
    np.testing.assert_allclose(found["y"], opened(both / "linear.onnx", engine="openvino").run(INPUTS["linear"])["y"])
    assert predictor.engine == "openvino"
    assert [record.getMessage().split(":")[1] for record in own_records(caplog)] == [
        " going on without onnxruntime, with openvino (predictor.engine names one)"
    ]
    with pytest.raises(ZeroDivisionError):
        named.run(INPUTS["linear"])
    assert named.engine == "onnxruntime"


def test_a_damaged_file(both: Path, tmp_path: Path) -> None:
    model = tmp_path / "linear.onnx"
    model.write_bytes((both / "linear.onnx").read_bytes()[:40])
    signature = read_program(both / "linear.onnx").signature
    engines: list[Any] = ["onnxruntime", "openvino", "auto"]
    for engine in engines:
        with pytest.raises(ArchiveUnusable, match=r"^linear.onnx: not a model in ONNX's form"):
            predictor_of(model, None, signature, PredictorSettings(engine=engine))


def test_an_error_of_an_engine_does_not_tell_where_the_model_lies(both: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(way: Way, *_: Any) -> None:
        raise RuntimeError(f"no way to read {both}/linear.onnx, nor anything in '{both}'")

    monkeypatch.setattr(Way, "load", fails)
    with pytest.raises(LoadFailed, match=r"cannot load it: no way to read linear.onnx, nor anything in 'the model's f"):
        opened(both / "linear.onnx")


def test_weights_outside_the_models_folder_are_not_read(both: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(13 * 2 * 4))
    (tmp_path / "model").mkdir()
    model = tmp_path / "model" / "outside.onnx"
    nodes, weight = [node("MatMul", ["x", "weight"], ["y"])], np.ones((13, 1), np.float32)
    where = [weights("weight", weight, "../secret.bin")]
    model.write_bytes(onnx([("x", FLOAT, ["n", 13])], [("y", FLOAT, ["n", 1])], nodes, where))
    signature = read_program(both / "linear.onnx").signature
    for engine in ("onnxruntime", "openvino"):
        with pytest.raises(ArchiveUnusable, match=r"outside.onnx: it takes weights from '../secret.bin'"):
            predictor_of(model, None, signature, PredictorSettings(engine=engine))


@pytest.mark.parametrize(
    ("model", "settings", "message"),
    [
        (
            "linear.pdmodel",
            {"engine": "onnxruntime"},
            r"it reads \.onnx, and the model is linear\.pdmodel; say paddle or",
        ),
        ("linear.onnx", {"engine": "paddle"}, r"paddle: it reads \.json, \.pdmodel, and the model is linear\.onnx"),
        (
            "linear.onnx",
            {"precision": "float16"},
            r"float16: this CPU has no instructions for it \(amx_fp16 or avx512_fp16\)",
        ),
        (
            "linear.onnx",
            {"precision": "int8"},
            r"int8: linear\.onnx is not quantized: quantize it before it is exported",
        ),
    ],
    ids=str,
)
def test_settings_that_cannot_be(both: Path, model: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        opened(both / model, **settings)


@pytest.mark.skipif(bool(cpu_flags() & {"avx512_fp16", "amx_fp16"}), reason="this CPU computes in float16")
def test_openvino_does_not_take_another_precision_in_silence(both: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precisions, "cpu_flags", lambda: frozenset({"avx512_fp16"}))
    with pytest.raises(LoadFailed, match=r"OpenVINO computes in (bf16|f32) on this CPU, not in float16"):
        opened(both / "digits.pdmodel", engine="openvino", precision="float16")


def test_files_are_released_when_the_first_run_needs_no_other_way(both: Path) -> None:
    released: list[str] = []
    for name in ("digits", "linear"):
        model = both / f"{name}.pdmodel"
        files = ModelFiles(model, model.with_suffix(".pdiparams"), read_program(model).signature)
        settings = PredictorSettings(onednn=name == "digits")
        predictor = Predictor(Described(files, settings, None), partial(released.append, name))
        assert released.count(name) == (name == "linear"), "there is no other way to load it"
        for _ in range(2):
            predictor.run(INPUTS[name])
    assert released == ["digits", "linear"]


def test_precisions_where_the_cpu_has_them(both: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is refused on every CPU, although this one may have no bfloat16."""
    monkeypatch.setattr(precisions, "cpu_flags", lambda: frozenset({"amx_bf16"}))
    with pytest.raises(ConfigError, match="onnxruntime: it does not compute in bfloat16 on CPUs; openvino does"):
        opened(both / "linear.onnx", engine="onnxruntime", precision="bfloat16")
    with pytest.raises(ConfigError, match=r"float16: this CPU has no instructions for it \(amx_fp16 or avx512_fp16\)"):
        opened(both / "linear.onnx", precision="float16")
    monkeypatch.setattr(precisions, "cpu_flags", lambda: frozenset({"amx_bf16", "avx512_fp16"}))
    with pytest.raises(ConfigError, match="paddle: it does not compute in float16 on CPUs; openvino does"):
        opened(both / "linear.pdmodel", engine="paddle", precision="float16")
    with pytest.raises(ConfigError, match="Paddle needs oneDNN for it"):
        opened(both / "linear.pdmodel", onednn=False, precision="bfloat16")


@pytest.mark.parametrize(
    ("model", "engine", "message"),
    [
        ("linear.onnx", "auto", r"pip install 'pdserver\[onnxruntime\]'"),
        ("linear.onnx", "onnxruntime", r"onnxruntime: it is not installed: pip install 'pdserver\[onnxruntime\]'"),
        ("linear.pdmodel", "openvino", r"openvino: it is not installed: pip install 'pdserver\[openvino\]'"),
    ],
)
def test_engines_that_are_not_installed(
    both: Path, monkeypatch: pytest.MonkeyPatch, model: str, engine: str, message: str
) -> None:
    monkeypatch.setattr(candidates, "find_spec", lambda name: None)
    with pytest.raises(LoadFailed, match=message):
        opened(both / model, engine=engine)
    assert opened(both / "linear.pdmodel").engine == "paddle"


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_no_engine_pins_its_threads(both: Path, engine: str) -> None:
    """Each worker would pin its thread to the same core."""
    predictor = opened(both / "digits.onnx", engine=engine)
    predictor.run(INPUTS["digits"])
    cores = os.sched_getaffinity(0)
    assert all(os.sched_getaffinity(int(thread.name)) == cores for thread in Path("/proc/self/task").iterdir())


def test_an_engine_is_closed_more_than_once(both: Path) -> None:
    for name, engine in (("linear.pdmodel", "paddle"), ("linear.onnx", "onnxruntime"), ("linear.onnx", "openvino")):
        loaded = opened(both / name, engine=engine)._loaded
        loaded.close()
        loaded.close()
        with pytest.raises((AttributeError, PdError)):
            loaded.run(INPUTS["linear"])


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_model_that_was_converted_before_it_was_packed(both: Path, engine: str) -> None:
    """Engines run it by its own names, and the signature's stay what they are."""
    found, other = (read_program(both / f"digits.{suffix}").signature for suffix in ("pdmodel", "onnx"))
    named = Signature(
        tuple(replace(spec, source=made.source) for spec, made in zip(found.inputs, other.inputs, strict=True)),
        tuple(replace(spec, source=made.source) for spec, made in zip(found.outputs, other.outputs, strict=True)),
    )
    settings = PredictorSettings(engine=engine)  # type: ignore[arg-type]
    converted = Converted(both / "digits.onnx", named)
    weights = both / "digits.pdiparams"
    predictor = predictor_of(both / "digits.pdmodel", weights, found, settings, converted)
    assert predictor.engine == engine
    for given, wanted in zip(answers(predictor, INPUTS["digits"]), paddles_answers(both, "digits"), strict=True):
        np.testing.assert_allclose(given, wanted, rtol=1e-4, atol=1e-6)
