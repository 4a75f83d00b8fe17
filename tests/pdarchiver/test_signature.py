"""What is read from model files agrees with what Paddle's own predictor says of them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdarchiver import messages, model, parameters, signature
from pdarchiver.dtypes import DTYPES, PREDICTORS_DTYPES
from pdarchiver.errors import InvalidModel, PackingError
from pdarchiver.manifest import Signature, TensorSpec

NAMES = ["linear", "convolution", "many", "plain", "static"]
BOTH = pytest.mark.parametrize("kind", ["pir", "desc"])


def model_file(models: Path, kind: str, name: str) -> Path:
    return models / kind / (name + {"pir": ".json", "desc": ".pdmodel"}[kind])


@BOTH
@pytest.mark.parametrize("name", NAMES)
def test_agrees_with_the_predictor(models: Path, kind: str, name: str) -> None:
    facts: dict[str, Any] = json.loads((models / kind / "facts.json").read_text())[name]
    read = signature.read(model_file(models, kind, name)).signature
    assert [spec.source for spec in read.inputs] == facts["inputs"]
    assert [(spec.source, spec.dtype) for spec in read.outputs] == [
        (name, dtype) for name, _, dtype in facts["outputs"]
    ]
    for spec, (_, shape, _) in zip(read.outputs, facts["outputs"], strict=True):
        assert len(spec.shape) == len(shape)
        assert all(said in (-1, real) for said, real in zip(spec.shape, shape, strict=True))


@BOTH
def test_inputs_as_they_were_declared(models: Path, kind: str) -> None:
    assert signature.read(model_file(models, kind, "many")).signature.inputs == (
        TensorSpec("words", "int64", (-1, -1), "words"),
        TensorSpec("mask", "bool", (-1, -1), "mask"),
        TensorSpec("scale", "float32", (1,), "scale"),
    )
    (image,) = signature.read(model_file(models, kind, "convolution")).signature.inputs
    assert image == TensorSpec("image", "float32", (-1, 3, -1, -1), "image")


def test_every_type(models: Path) -> None:
    read = signature.read(models / "pir" / "types.json").signature
    assert [f"in_{spec.dtype}" for spec in read.inputs] == [spec.name for spec in read.inputs]
    assert len({spec.dtype for spec in read.inputs}) == 10
    assert [spec.dtype for spec in read.outputs[10:]] == [
        *(spec.dtype for spec in read.inputs),
        "complex64",
        "complex128",
        "float8_e4m3fn",
    ]


def test_types_that_the_predictor_does_not_know_are_refused(models: Path) -> None:
    with pytest.raises(InvalidModel, match=r"types\.json: the input 'in_int16' is int16, which .* cannot take: .*cast"):
        model.read_signature(model.find(models / "pir" / "types.json", None))
    for dtype in sorted(DTYPES):
        given = Signature((), (TensorSpec("y", dtype, (-1,), "y"),))
        if dtype in PREDICTORS_DTYPES:
            signature.check_dtypes(given)
        else:
            with pytest.raises(InvalidModel, match=f"the output 'y' is {dtype}, which .* cannot give"):
                signature.check_dtypes(given)


@BOTH
@pytest.mark.parametrize("name", [name for name in NAMES if name != "plain"])
def test_weights_belong_to_their_model(models: Path, kind: str, name: str) -> None:
    path = model_file(models, kind, name)
    program = signature.read(path)
    parameters.check(path.with_suffix(".pdiparams"), program)
    assert program.parameters


def test_parameters_that_are_not_persistable_are_not_among_the_weights(models: Path) -> None:
    path = models / "pir" / "recurrent.json"
    assert "non_persistable" in path.read_text()
    program = signature.read(path)
    parameters.check(path.with_suffix(".pdiparams"), program)
    assert program.parameters.total() == 4


def test_an_input_that_is_an_output_as_well_is_refused(models: Path, tmp_path: Path) -> None:
    path = tmp_path / "same.json"
    path.write_text((models / "pir" / "linear.json").read_text().replace('"fetch_name_0"', '"x"'))
    with pytest.raises(InvalidModel, match=r"same\.json: the input 'x' is an output as well.*paddle\.assign"):
        signature.read(path)


def test_parameters_of_a_model_without_any(models: Path) -> None:
    assert signature.read(models / "pir" / "plain.json").parameters == Counter()


def test_weights_of_another_model(models: Path) -> None:
    program = signature.read(models / "pir" / "linear.json")
    with pytest.raises(InvalidModel, match=r"not the parameters of this model: it lacks 2 .*\[13, 1\].*, it has"):
        parameters.check(models / "pir" / "static.pdiparams", program)


def test_weights_cut_short_at_any_byte(models: Path, tmp_path: Path) -> None:
    program = signature.read(models / "pir" / "linear.json")
    data = (models / "pir" / "linear.pdiparams").read_bytes()
    path = tmp_path / "cut.pdiparams"
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(InvalidModel, match=r"cut\.pdiparams"):
            parameters.check(path, program)


@given(data=st.binary(max_size=200))
def test_anything_as_weights_is_refused_kindly(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.pdiparams"
    path.write_bytes(data)
    program = signature.Program(Signature((), ()), Counter({(3, 4): 1}))
    with pytest.raises(InvalidModel, match=r"any\.pdiparams"):
        parameters.check(path, program)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "not a Paddle model"),
        (b"\x80\x02}q\x00.", "not a Paddle model"),
        (b'{"0": "tench"}', r"not a Paddle model in PIR form"),
        (b'{"base_code": {"magic": "pir"}, "program": {}}', r"in JSON \(PIR\)"),
        (b'{"base_code": {"magic": "pir"}, "program": {"regions": [{"blocks": [{"ops": []}]}]}}', "no outputs"),
        (b"{" * 100_000, r"in JSON \(PIR\)"),
    ],
)
def test_what_is_no_model(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "model.json"
    path.write_bytes(content)
    with pytest.raises(InvalidModel, match=rf"model\.json: .*{problem}"):
        signature.read(path)


@BOTH
def test_a_model_cut_short_is_refused(models: Path, kind: str, tmp_path: Path) -> None:
    data = model_file(models, kind, "linear").read_bytes()
    path = tmp_path / "cut"
    for tenth in range(10):
        path.write_bytes(data[: len(data) * tenth // 10])
        with pytest.raises(InvalidModel):
            signature.read(path)


@given(data=st.binary(max_size=100))
def test_anything_as_a_model_is_refused_kindly(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.pdmodel"
    path.write_bytes(data)
    with pytest.raises(InvalidModel, match=r"any\.pdmodel"):
        signature.read(path)


def test_inputs_with_lengths_are_refused(models: Path) -> None:
    with pytest.raises(InvalidModel, match=r"lengths\.pdmodel: the input 'words' is a LoD tensor: .*padded inputs"):
        signature.read(models / "desc" / "lengths.pdmodel")


def test_an_unknown_type_is_named(models: Path, tmp_path: Path) -> None:
    path = tmp_path / "future.json"
    text = (models / "pir" / "linear.json").read_text()
    path.write_text(text.replace("0.t_f32", "0.t_f4"))
    with pytest.raises(InvalidModel, match="future"):
        signature.read(path)


def test_rename() -> None:
    before = Signature(
        (TensorSpec("x", "float32", (-1, 13), "x"), TensorSpec("y", "int64", (), "y")),
        (TensorSpec("fetch_name_0", "float32", (-1, 1), "fetch_name_0"),),
    )
    after = signature.rename(before, {"x": "features"}, {"fetch_name_0": "price"}, "m.yaml")
    assert [spec.name for spec in (*after.inputs, *after.outputs)] == ["features", "y", "price"]
    assert [spec.source for spec in (*after.inputs, *after.outputs)] == ["x", "y", "fetch_name_0"]
    with pytest.raises(PackingError, match=r"m\.yaml: outputs: .*'fetch_name_1' \(did you mean 'fetch_name_0'\?\)"):
        signature.rename(before, {}, {"fetch_name_1": "price"}, "m.yaml")
    with pytest.raises(PackingError, match="'y' would be the name of 'x' and 'y'"):
        signature.rename(before, {"x": "y"}, {}, "m.yaml")
    swapped = signature.rename(before, {"x": "y", "y": "x"}, {}, "m.yaml")
    assert [spec.name for spec in swapped.inputs] == ["y", "x"]


def test_a_model_file_has_only_so_many_bytes(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "_MAX_BYTES", 100)
    with pytest.raises(InvalidModel, match=r"linear\.pdmodel: not a Paddle model: .* bytes; at most 100 are read"):
        signature.read(models / "desc" / "linear.pdmodel")
