"""ONNX models pack like Paddle's: with their signature, and with the files that hold their weights."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdarchiver import archive, convert, model, onnx_model, signature
from pdarchiver.cli import main
from pdarchiver.errors import ArchiveError, InvalidModel, PackingError, UnsafeModel
from pdarchiver.manifest import Signature, TensorSpec
from pdarchiver.pack import PackOptions, pack
from tests.onnx_files import FLOAT, INT64, STRING, Value, linear, message, node, text, weights
from tests.onnx_files import model as onnx

WEIGHT = np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3)
LINEAR = Signature((TensorSpec("x", "float32", (-1, 4), "x"),), (TensorSpec("y", "float32", (-1, 3), "y"),))


def test_packs_with_its_signature(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A weight among the inputs, as old files have it, is no input."""
    linear(tmp_path / "price.onnx", WEIGHT)
    (tmp_path / "price.yaml").write_text("inputs: {x: features}\n")
    flags = ["--model-name", "price", "--version", "1.0", "--export-path", str(tmp_path / "store")]
    flags += ["--config-file", str(tmp_path / "price.yaml"), "--serialized-file", str(tmp_path / "price")]
    assert main(flags) == 0
    assert "features float32[-1, 4] -> y float32[-1, 3]" in capsys.readouterr().out
    manifest = archive.verify(tmp_path / "store" / "price.pdar")
    assert (manifest.serialized_file, manifest.params_file) == ("price.onnx", None)
    assert manifest.signature == Signature((TensorSpec("features", "float32", (-1, 4), "x"),), LINEAR.outputs)


def test_types_and_lengths(tmp_path: Path) -> None:
    """Lengths are open where they have a name, or nothing; weights in a sparse form are no inputs, either."""
    path = tmp_path / "many.onnx"
    inputs: list[Value] = [("ids", INT64, ["batch", "", 16]), ("scale", 10, []), ("s", FLOAT, [4])]
    sparse = message(15, message(1, weights("s", WEIGHT[0])))
    whole = onnx(inputs, [("a", 16, ["batch"]), ("b", 9, [2, 3])])
    path.write_bytes(whole + message(7, sparse))
    read = signature.read(path)
    assert [(spec.name, spec.dtype, spec.shape) for spec in read.signature.inputs] == [
        ("ids", "int64", (-1, -1, 16)),
        ("scale", "float16", ()),
    ]
    assert [(spec.dtype, spec.shape) for spec in read.signature.outputs] == [("bfloat16", (-1,)), ("bool", (2, 3))]


def test_weights_in_files_of_their_own(tmp_path: Path) -> None:
    """Wherever they are named: at the top, in an attribute, in the graph of a loop's body."""
    linear(tmp_path / "model.onnx", WEIGHT, "data/w.bin")
    inner = message(6, node("Constant", [], ["c"], message(5, weights("c", WEIGHT, "inner.bin"))))
    looping = onnx(
        [("x", FLOAT, ["N", 4])], [("y", FLOAT, ["N", 3])], [node("Loop", ["x"], ["y"], inner)],
        [weights("w", WEIGHT, "data/w.bin")],
    )  # fmt: skip
    (tmp_path / "model.onnx").write_bytes(looping)
    options = PackOptions(model_name="m", version="1.0", serialized_file=tmp_path, export_path=tmp_path / "store")
    with pytest.raises(PackingError, match=r"model\.onnx: its weights are in inner\.bin, which is not beside it"):
        pack(options)
    (tmp_path / "inner.bin").write_bytes(WEIGHT.tobytes())
    assert set(archive.verify(pack(options)).files) == {"model.onnx", "data/w.bin", "inner.bin"}


@pytest.mark.parametrize("place", ["../w.bin", "/etc/passwd", "*/_ORT_MEM_ADDR_/*"])
def test_weights_from_elsewhere_are_refused(tmp_path: Path, place: str) -> None:
    data = onnx([("x", FLOAT, [1])], [("x", FLOAT, [1])], (), [weights("w", WEIGHT, place)])
    with pytest.raises(UnsafeModel, match="it takes weights from"):
        onnx_model.check(io.BytesIO(data))
    (tmp_path / "model.onnx").write_bytes(data)
    with pytest.raises((InvalidModel, PackingError), match="weights"):
        model.read_program(model.find(tmp_path / "model.onnx", None))


def test_what_cannot_be_served_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    x, y = ("x", FLOAT, [1]), ("y", FLOAT, [1])
    named = onnx([x], [y]).replace(b"\x0a\x01x", b"\x0a\x01\xff")
    for data, problem in (
        (onnx([("x", STRING, [1])], [y]), "the input 'x' is string, which the server cannot take"),
        (onnx([x], [("y", 5, [1])]), "the output 'y' is int16, which the server cannot give"),
        (onnx([x], [("y", FLOAT, None)]), "the output 'y' has no shape"),
        (onnx([x, x], [y]), "two of its inputs have the same name"),
        (onnx([x], []), "no outputs"),
        (onnx([x], [y])[:-30], "not a model in ONNX's form"),
        (named, "not a model in ONNX's form"),
        (text(2, "nothing"), "it has no graph"),
        (b"", "not a model in ONNX's form"),
        (b'{"base_code": {"magic": "pir"}}', "not a model in ONNX's form"),
    ):
        path.write_bytes(data)
        with pytest.raises(InvalidModel, match=rf"model\.onnx: .*{problem}"):
            model.read_program(model.find(path, None))
    linear(path, WEIGHT)
    with pytest.raises(PackingError, match="names its weights itself"):
        model.find(path, path)
    with pytest.raises(PackingError, match="Paddle Serving has no ONNX models"):
        convert.convert(convert.ConvertOptions(dirname=tmp_path))


def test_in_a_folder_paddles_own_model_comes_first(tmp_path: Path, linear_files: list[Path]) -> None:
    linear(tmp_path / "inference.onnx", WEIGHT)
    (tmp_path / "labels.json").write_text("{}")
    assert model.is_folder_of_model(tmp_path)
    assert model.find(tmp_path, None).model.name == "inference.onnx"
    for path in linear_files:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    assert model.find(tmp_path, None).model.name == "linear.json"


@pytest.fixture
def linear_files(models: Path) -> list[Path]:
    """A model of Paddle's and its weights."""
    return [models / "pir" / "linear.json", models / "pir" / "linear.pdiparams"]


@given(data=st.binary(max_size=60), at=st.integers(0, 200))
def test_any_bytes_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes, at: int) -> None:
    path = tmp_path_factory.getbasetemp() / "any.onnx"
    whole = linear(path, WEIGHT).read_bytes()
    path.write_bytes(whole[:at] + data + whole[at + len(data) :])
    try:
        signature.read(path)
    except ArchiveError as error:
        assert str(path) in str(error)  # noqa: PT017


def test_agrees_with_onnx_runtime(tmp_path: Path) -> None:
    """The files of these tests are what engines take for ONNX, and their names and lengths are the same."""
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(linear(tmp_path / "model.onnx", WEIGHT, "w.bin"))
    read = signature.read(tmp_path / "model.onnx").signature
    assert [port.name for port in session.get_inputs() if port.name != "w"] == [spec.source for spec in read.inputs]
    rows = np.ones((2, 4), np.float32)
    (given,) = session.run(["y"], {"x": rows})
    np.testing.assert_allclose(given, rows @ WEIGHT, rtol=1e-5)
