"""Predict over gRPC, byte by byte: what clients send, what they get, and the errors' codes and words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pdserver.dialects.tensorflow.data_types import DATA_TYPES
from tests.conftest import Serve, fit_file, pack_handler
from tests.dialects.tensorflow.conftest import named, predict, refused
from tests.running import RunningServer
from tests.zoo.general_echo import DTYPES

ROWS = np.arange(26, dtype=np.float32).reshape(2, 13)
MEGABYTE = 1 << 20


def tensor(dtype: str, shape: Any, **fields: Any) -> dict[str, Any]:
    dims = [{"size": length} for length in shape]
    return {"dtype": DATA_TYPES[dtype].number, "tensor_shape": {"dim": dims}, **fields}


def asking(inputs: dict[str, Any], output_filter: Any = (), **spec: Any) -> Any:
    return named("PredictRequest")(model_spec={"name": "fit", **spec}, inputs=inputs, output_filter=output_filter)


def rows(**fields: Any) -> dict[str, Any]:
    return {"x": tensor("float32", (2, 13), **(fields or {"tensor_content": ROWS.tobytes()}))}


def of_fit(fit_model: Path, given: Any = ROWS) -> list[float]:
    weights = np.load(fit_model / "weights.npz")
    found: list[float] = (np.float32(given) @ weights["w"] + weights["b"]).ravel().tolist()
    return found


@pytest.mark.parametrize("spec", [{}, {"version": {"value": 1}}, {"signature_name": "serving_default"}])
@pytest.mark.parametrize("fields", [{"tensor_content": ROWS.tobytes()}, {"float_val": ROWS.ravel()}])
def test_numbers_go_in_and_typed_lists_come_out(
    served: RunningServer, fit_model: Path, spec: dict[str, Any], fields: dict[str, Any]
) -> None:
    for _ in range(2):
        answer = predict(served, asking(rows(**fields), **spec))
        said = answer.model_spec
        assert (said.name, said.version.value, said.signature_name) == ("fit", 1, "serving_default")
        [found] = answer.outputs.values()
        assert (found.dtype, [dim.size for dim in found.tensor_shape.dim], found.tensor_content) == (1, [2, 1], b"")
        assert list(found.float_val) == pytest.approx(of_fit(fit_model), rel=1e-5)


def test_other_numbers_in_the_same_message(served: RunningServer, fit_model: Path) -> None:
    """What is known of an earlier message does not hold for other numbers, versions or outputs."""
    for factor in (1, 2, 3):
        for fields in ({"tensor_content": (ROWS * factor).tobytes()}, {"float_val": (ROWS * factor).ravel()}):
            [found] = predict(served, asking(rows(**fields))).outputs.values()
            assert list(found.float_val) == pytest.approx(of_fit(fit_model, ROWS * factor), rel=1e-5)
    assert refused(lambda: predict(served, asking(rows(), version={"value": 2})))[0] == "NOT_FOUND"
    assert refused(lambda: predict(served, asking(rows(), ["y"])))[0] == "INVALID_ARGUMENT"


@pytest.mark.parametrize("numbers", [3, 70_000, 3 * MEGABYTE // 4])
def test_tensors_of_every_type_and_size(served: RunningServer, numbers: int) -> None:
    """A small message, one that is cut on the wire, and numbers that go to codec processes and through files."""
    data: dict[str, bytes] = {}
    inputs: dict[str, Any] = {}
    for place, dtype in enumerate(DTYPES):
        if dtype == "bytes":
            inputs[dtype] = tensor(dtype, (1, 3), string_val=[b"", b"\xff" * 300, b"abc"])
            continue
        large = dtype in ("float32", "int32")
        held = np.arange(numbers if large else 3) * (place + 1) % 120
        kept = "uint16" if dtype in ("float16", "bfloat16") else dtype
        data[dtype] = (held % 2 if dtype == "bool" else held).astype(kept).tobytes()
        inputs[dtype] = tensor(dtype, (1, len(held)), tensor_content=data[dtype])
    answer = predict(served, asking(inputs, name="echo"))
    assert set(answer.outputs) == set(DTYPES)
    assert list(answer.outputs["bytes"].string_val) == [b"", b"\xff" * 300, b"abc"]
    fields = {"float32": "float_val", "float64": "double_val", "int64": "int64_val", "bool": "bool_val"}
    for dtype, sent in data.items():
        kept = "uint16" if dtype in ("float16", "bfloat16") else dtype
        field = "half_val" if kept == "uint16" and dtype != "uint16" else fields.get(dtype, "int_val")
        assert np.array(getattr(answer.outputs[dtype], field), kept).tobytes() == sent, dtype
    again = predict(served, named("PredictRequest")(model_spec={"name": "echo"}, inputs=answer.outputs))
    assert again == answer, "what came out can go in"


def test_one_value_for_the_whole_shape(served: RunningServer) -> None:
    given = {dtype: tensor(dtype, (1, 3)) for dtype in DTYPES}
    given["float32"] = tensor("float32", (2, MEGABYTE // 8), float_val=[1.5, 2.5])
    given = {
        dtype: {**each, "tensor_shape": {"dim": [{"size": 2}, each["tensor_shape"]["dim"][1]]}}
        for dtype, each in given.items()
    }
    outputs = predict(served, asking(given, ["float32", "int8"], name="echo")).outputs
    assert set(outputs) == {"float32", "int8"}
    assert np.array(outputs["float32"].float_val).tolist() == [1.5] + [2.5] * (MEGABYTE // 4 - 1)
    assert list(outputs["int8"].int_val) == [0] * 6, "without values, all are zero"


def test_content_if_the_server_is_set_so(fit_model: Path, store: Path, serve: Serve) -> None:
    pack_handler(store, "base_handler", "fit", config="batchSize: 4\n", serialized_file=fit_file(fit_model))
    pack_handler(store, "general_echo", "echo")
    server = serve(tensorflow_tensor_content="true")
    [found] = predict(server, asking(rows())).outputs.values()
    assert not found.float_val
    assert np.frombuffer(found.tensor_content, "f4").tolist() == pytest.approx(of_fit(fit_model), rel=1e-5)
    given = {dtype: tensor(dtype, (1, 1)) for dtype in DTYPES}
    given["bytes"] = tensor("bytes", (1, 3), string_val=[b"x" * MEGABYTE])
    given["int64"] = tensor("int64", (1, 9), int64_val=[-5])
    outputs = predict(server, asking(given, ["bytes", "int64"], name="echo")).outputs
    assert outputs["bytes"].string_val == [b"x" * MEGABYTE] * 3, "strings have no content that clients read"
    assert np.frombuffer(outputs["int64"].tensor_content, "i8").tolist() == [-5] * 9


X64 = {"x": tensor("float64", (2, 13), double_val=[1])}
BAD: dict[str, tuple[Any, str, str]] = {
    "no message": (b"\x0a\x05fit", "INVALID_ARGUMENT", "what was sent is not a tensorflow.serving.PredictRequest"),
    "no spec": (named("PredictRequest")(inputs=rows()), "INVALID_ARGUMENT", "Missing ModelSpec"),
    "no name": (asking(rows(), name=""), "INVALID_ARGUMENT", "ModelSpec has no name specified."),
    "other model": (asking(rows(), name="fot"), "NOT_FOUND", "Servable not found for request: Latest(fot)"),
    "other version": (
        asking(rows(), version={"value": 7}),
        "NOT_FOUND",
        "Servable not found for request: Specific(fit, 7)",
    ),
    "a label": (asking(rows(), version_label="new"), "INVALID_ARGUMENT", "Unrecognized servable version label: new"),
    "other signature": (
        asking(rows(), signature_name="predict"),
        "FAILED_PRECONDITION",
        'Serving signature key "predict" not found.',
    ),
    "no inputs": (
        asking({}),
        "INVALID_ARGUMENT",
        "input size does not match signature: 0!=1 len({}) != len({x}). Sent extra: {}. Missing but required: {x}.",
    ),
    "one too many": (
        asking({**rows(), "y": tensor("float32", ())}),
        "INVALID_ARGUMENT",
        "input size does not match signature: 2!=1",
    ),
    "other input": (
        asking({"y": rows()["x"]}),
        "INVALID_ARGUMENT",
        "input tensor alias not found in signature: y. Inputs expected to be in the set {x}.",
    ),
    "other output": (
        asking(rows(), ["score"]),
        "INVALID_ARGUMENT",
        "output tensor alias not found in signature: score. Outputs expected to be in the set {",
    ),
    "other dtype": (asking(X64), "INVALID_ARGUMENT", "Expects x to be float but double is provided"),
    "other shape": (
        asking({"x": tensor("float32", (1, 12), float_val=[1])}),
        "INVALID_ARGUMENT",
        "unexpected shape for input 'x' for model 'fit'. Expected [-1,13], got [1,12]",
    ),
    "content": (
        asking({"x": tensor("float32", (2, 13), tensor_content=b"abc")}),
        "INVALID_ARGUMENT",
        "tensor parsing error: x: shape [2, 13] of float32 takes 104 bytes; tensor_content has 3",
    ),
    "too large": (
        asking({"x": tensor("float32", (2**21, 13), float_val=[1])}),
        "INVALID_ARGUMENT",
        "tensor parsing error: a tensor has more than ",
    ),
}


@pytest.mark.parametrize("padding", [0, 40_000], ids=["small", "cut"])
@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_said(served: RunningServer, name: str, padding: int) -> None:
    message, code, words = BAD[name]
    data = message if isinstance(message, bytes) else message.SerializeToString()
    unknown = b"\xfa\x01" + b"\xc0\xb8\x02" + bytes(padding) if padding else b""
    assert refused(lambda: predict(served, unknown + data))[0] == code
    assert refused(lambda: predict(served, unknown + data))[1].startswith(words)


def test_many_strings_and_many_fields(served: RunningServer) -> None:
    """More fields than the front end looks at: codec processes read such messages."""
    texts = [b"%d" % number for number in range(9000)]
    given = {dtype: tensor(dtype, (1, 1)) for dtype in DTYPES}
    given["bytes"] = tensor("bytes", (1, len(texts)), string_val=texts)
    found = predict(served, asking(given, ["bytes"], name="echo")).outputs["bytes"]
    assert list(found.string_val) == texts
