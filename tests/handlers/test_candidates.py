"""Which engines and precisions the settings allow, in which order, and what they are compared with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pdarchiver.manifest import Signature
from pdserver.errors import ConfigError
from pdserver.handlers.runtime.engines import candidates, precisions
from pdserver.handlers.runtime.engines.candidates import Candidates, ModelFiles
from pdserver.handlers.runtime.predictor_settings import PredictorSettings

PLAIN, QUANTIZED = b"\x1a\x06conv2d", b"\x1a\x0fquantize_linear"


@pytest.fixture(autouse=True)
def all_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidates, "find_spec", lambda name: name)
    monkeypatch.setattr(precisions, "cpu_flags", lambda: frozenset({"avx512_bf16", "avx512_fp16"}))


def found(folder: Path, name: str, content: bytes = PLAIN, device_id: int | None = None, **settings: Any) -> Candidates:
    (folder / name).write_bytes(content)
    files = ModelFiles(folder / name, None, Signature((), ()))
    return candidates.find(files, PredictorSettings(**settings), device_id)


def texts(wanted: Any) -> list[str]:
    return list(map(str, wanted))


@pytest.mark.parametrize(
    ("name", "settings", "wanted", "reference", "untried"),
    [
        ("m.pdmodel", {}, ["paddle", "openvino"], "paddle", ["paddle"]),
        ("m.json", {}, ["paddle"], "paddle", ["paddle"]),
        ("m.onnx", {}, ["onnxruntime", "openvino"], "onnxruntime", ["onnxruntime", "openvino"]),
        (
            "m.pdmodel",
            {"precision": "auto"},
            ["paddle", "openvino", "paddle (bfloat16)", "openvino (bfloat16)", "openvino (float16)"],
            "paddle",
            ["paddle"],
        ),
        (
            "m.pdmodel",
            {"precision": "auto", "onednn": False},
            ["paddle", "openvino", "openvino (bfloat16)", "openvino (float16)"],
            "paddle",
            ["paddle"],
        ),
        (
            "m.pdmodel",
            {"precision": "bfloat16"},
            ["paddle (bfloat16)", "openvino (bfloat16)"],
            "paddle",
            ["paddle (bfloat16)", "paddle"],
        ),
        ("m.pdmodel", {"precision": "float16"}, ["openvino (float16)"], "paddle", ["openvino (float16)"]),
        (
            "m.pdmodel",
            {"precision": "auto", "engine": "openvino"},
            ["openvino", "openvino (bfloat16)", "openvino (float16)"],
            "paddle",
            ["openvino"],
        ),
        ("m.onnx", {"precision": "auto", "engine": "onnxruntime"}, ["onnxruntime"], "onnxruntime", ["onnxruntime"]),
    ],
    ids=str,
)
def test_engines_and_precisions(
    tmp_path: Path, name: str, settings: dict[str, Any], wanted: list[str], reference: str, untried: list[str]
) -> None:
    given = found(tmp_path, name, **settings)
    assert (texts(given.wanted), str(given.reference), texts(given.untried())) == (wanted, reference, untried)


def test_what_is_left_if_the_chosen_one_fails(tmp_path: Path) -> None:
    """Never one that nobody has compared, unless the settings name it."""
    auto = found(tmp_path, "m.pdmodel", precision="bfloat16")
    assert texts(auto.tried("openvino (bfloat16)")) == ["openvino (bfloat16)", "paddle"]
    assert texts(auto.tried("paddle")) == ["paddle"]
    named = found(tmp_path, "m.pdmodel", precision="auto", engine="openvino")
    assert texts(named.tried("openvino (bfloat16)")) == ["openvino (bfloat16)", "openvino"]
    assert texts(named.tried("paddle")) == ["openvino"], "Paddle is only what it is compared with"
    onnx = found(tmp_path, "m.onnx")
    assert texts(onnx.tried("onnxruntime", ["onnxruntime", "openvino"])) == ["onnxruntime", "openvino"]
    assert texts(onnx.tried("openvino", ["onnxruntime", "openvino"])) == ["openvino", "onnxruntime"]
    assert texts(onnx.tried("onnxruntime", ["onnxruntime"])) == ["onnxruntime"], "the other one gave wrong answers"
    assert texts(found(tmp_path, "m.pdmodel").tried("paddle", ["paddle", "openvino"])) == ["paddle"]


def test_int8_is_for_models_that_were_quantized(tmp_path: Path) -> None:
    for name, content in (("m.json", b'{"#":"1.quantize_linear"}'), ("m.onnx", b'"\x0eQuantizeLinear')):
        assert found(tmp_path, name, content, precision="int8").wanted[0].precision == "int8"
    given = found(tmp_path, "m.pdmodel", QUANTIZED, precision="int8")
    assert texts(given.wanted) == ["paddle (int8)", "openvino (int8)"]
    assert "openvino (int8)" in texts(found(tmp_path, "m.pdmodel", QUANTIZED, precision="auto").wanted)
    known = b"\x0a\x0fquantize_linear"  # versions of operations, which every .pdmodel lists
    with pytest.raises(ConfigError, match=r"predictor\.precision: int8: m\.pdmodel is not quantized"):
        found(tmp_path, "m.pdmodel", known, precision="int8")


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_processors_without_the_instructions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str) -> None:
    monkeypatch.setattr(precisions, "cpu_flags", lambda: frozenset({"avx2"}))
    with pytest.raises(ConfigError, match=f"predictor.precision: {precision}: this CPU has no instructions for it"):
        found(tmp_path, "m.pdmodel", precision=precision)
    assert texts(found(tmp_path, "m.pdmodel", precision="auto").wanted) == ["paddle", "openvino"]


def test_precisions_that_no_engine_of_the_model_has(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"float16: only openvino computes in it, which does not read m\.json"):
        found(tmp_path, "m.json", precision="float16")
    with pytest.raises(ConfigError, match=r"precision: auto: on CPUs only; on GPUs, predictor\.tensorrt\.precision"):
        found(tmp_path, "m.json", device_id=0, precision="auto")
