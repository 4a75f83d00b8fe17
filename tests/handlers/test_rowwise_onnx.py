"""What is proven of an ONNX model's rows is so: of the usual networks, of models that are put together at random, and
of what is not the same in ONNX as it is in Paddle's models."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from pdarchiver import signature
from pdserver.handlers.runtime.rowwise.proof import FirstAxis, Proof, of_file
from tests.onnx_files import BOOL, FLOAT, INT64, Value, attribute, model, node, number, weights

HERE = Path(__file__).parent
COUNT = 300


def proven(path: Path) -> Proof:
    return of_file(path, signature.read(path).signature.inputs)


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("usual")
    with zipfile.ZipFile(HERE / "usual_onnx.zip") as archive:
        archive.extractall(folder)
    return folder


def test_the_usual_networks_are_known_to_work_row_by_row(usual: Path) -> None:
    models = [path for path in usual.glob("*.onnx") if not path.stem.startswith("mixing")]
    assert len(models) == 28
    for path in models:
        proof = proven(path)
        assert set(proof.outputs.values()) == {"batch"}, (path.name, proof)


@pytest.mark.parametrize("exporter", ["old", "new"])
def test_what_mixes_rows_is_told_by_its_operation(usual: Path, exporter: str) -> None:
    proof = proven(usual / f"mixing-{exporter}.onnx")
    assert list(proof.outputs.values()) == ["unknown"] * 4
    assert list(proof.because_of.values()) == ["ReduceMean", "Softmax", "Slice", "Range"]


@pytest.mark.parametrize("exporter", ["old", "new"])
def test_how_many_rows_an_embedding_has(usual: Path, exporter: str) -> None:
    assert proven(usual / f"table-{exporter}.onnx").ids_below == {"user": 50, "item": 60}
    assert proven(usual / f"bert-{exporter}.onnx").ids_below == {"ids": 100}
    assert proven(usual / f"statistics-{exporter}.onnx").ids_below == {}


def test_what_is_proven_is_so(tmp_path: Path) -> None:
    """ONNX Runtime gives for a batch what it gives for each row."""
    pytest.importorskip("onnxruntime")
    from tests.handlers.random_onnx import Maker, is_rows

    known = true = 0
    path = tmp_path / "model.onnx"
    for seed in range(COUNT):
        made = Maker(seed)
        outputs = [name for name in made.results if made.ranks[name]]
        if not outputs:
            continue
        path.write_bytes(made.data(outputs))
        proof = proven(path)
        for name in outputs:
            is_so, claimed = is_rows(made, name), proof.first_axis(name) == "batch"
            assert is_so or not claimed, (seed, name)
            true += is_so
            known += claimed
    assert true > 400
    assert known >= 0.9 * true  # and what is so is known, as a rule


X: Value = ("x", FLOAT, ["n", 4])


def of(
    path: Path, *nodes: bytes, opset: int = 13, inputs: Sequence[Value] = (X,), initializers: Sequence[bytes] = ()
) -> Proof:
    """Of a model that gives `y`, of any shape."""
    data = model(inputs, [("y", FLOAT, [""])], nodes, initializers, opset)
    (path / "model.onnx").write_bytes(data)
    return proven(path / "model.onnx")


@pytest.mark.parametrize(
    ("opset", "axis", "expected"),
    [(11, 1, "batch"), (11, 0, "unknown"), (13, 1, "batch"), (13, 0, "unknown"), (6, 1, "unknown"), (26, 1, "unknown")],
)
def test_versions_of_operations(tmp_path: Path, opset: int, axis: int, expected: FirstAxis) -> None:
    """Nothing is known of those that are not known themselves."""
    found = of(tmp_path, node("Softmax", ["x"], ["y"], attribute("axis", axis)), opset=opset)
    assert found.first_axis("y") == expected


def test_softmax_over_all_axes_from_one_on(tmp_path: Path) -> None:
    """So it was before version 13. The rows are on axis 1 of what it takes."""
    steps = [
        node("Transpose", ["x"], ["turned"]),
        node("Softmax", ["turned"], ["chances"], attribute("axis", 0)),
        node("Transpose", ["chances"], ["y"]),
    ]
    assert of(tmp_path, *steps, opset=13).first_axis("y") == "batch"
    assert of(tmp_path, *steps, opset=12).because_of["y"] == "Softmax-1"


def test_an_operation_of_a_library_is_not_taken_for_one_of_onnxs(tmp_path: Path) -> None:
    ours = node("Relu", ["x"], ["y"])
    assert of(tmp_path, ours).first_axis("y") == "batch"
    whole = (tmp_path / "model.onnx").read_bytes()
    theirs = b"\x3a\x03lib"  # the field `domain` of a node
    changed = whole.replace(ours, ours[:1] + bytes([ours[1] + len(theirs)]) + ours[2:] + theirs)
    length = whole.index(b"\x3a", 8) + 1  # the graph's
    changed = changed[:length] + bytes([changed[length] + len(theirs)]) + changed[length + 1 :]
    (tmp_path / "model.onnx").write_bytes(changed)
    assert proven(tmp_path / "model.onnx").because_of["y"] == "lib.Relu"


def test_batch_norm_mixes_rows_where_it_takes_the_batchs_statistics(tmp_path: Path) -> None:
    table = [weights("w", np.ones(4, np.float32))]
    given = ["x", "w", "w", "w", "w"]
    trains = attribute("training_mode", 1)
    for norm, expected in (
        (node("BatchNormalization", given, ["y"]), "batch"),
        (node("BatchNormalization", given, ["y"], trains), "unknown"),
        (node("BatchNormalization", given, ["y", "mean", "variance"]), "unknown"),
    ):
        assert of(tmp_path, norm, initializers=table).first_axis("y") == expected


def test_dropout_mixes_nothing_unless_it_trains(tmp_path: Path) -> None:
    given = ["x", "", "trains"]
    for trains, expected in ((0, "batch"), (1, "unknown")):
        flag = number(1, 1) + number(2, BOOL) + number(5, trains) + b"\x42\x06trains"
        assert of(tmp_path, node("Dropout", given, ["y"]), initializers=[flag]).first_axis("y") == expected


def test_what_a_pool_counts_through_all_rows_is_not_rows(tmp_path: Path) -> None:
    picture: Value = ("x", FLOAT, ["n", 3, 8, 8])
    pool = [attribute("kernel_shape", [2, 2])]
    assert of(tmp_path, node("MaxPool", ["x"], ["y", "i"], *pool), inputs=[picture]).first_axis("y") == "batch"
    assert of(tmp_path, node("MaxPool", ["x"], ["i", "y"], *pool), inputs=[picture]).first_axis("y") == "unknown"


def test_scales_of_quantized_rows_are_the_same_for_all(tmp_path: Path) -> None:
    """A scale for each row, or one that the whole batch decides, mixes them."""
    fixed: list[Value] = [("x", FLOAT, [3, 4])]
    scales = [weights("s", np.ones(length, np.float32)) for length in (1, 3, 4)]
    for scale, axis, expected in ((0, 1, "batch"), (2, 1, "batch"), (1, 0, "unknown")):
        step = node("QuantizeLinear", ["x", "s"], ["y"], attribute("axis", axis))
        assert of(tmp_path, step, inputs=fixed, initializers=[scales[scale]]).first_axis("y") == expected
    dynamic = node("DynamicQuantizeLinear", ["x"], ["y", "scale", "zero"])
    assert of(tmp_path, dynamic).because_of["y"] == "DynamicQuantizeLinear"


def test_a_squeeze_of_all_axes_depends_on_the_number_of_rows(tmp_path: Path) -> None:
    wide: list[Value] = [("x", FLOAT, ["n", 4, 1])]
    axes = [weights("axes", np.array([2]))]
    assert of(tmp_path, node("Squeeze", ["x"], ["y"]), inputs=wide).first_axis("y") == "unknown"
    step = node("Squeeze", ["x", "axes"], ["y"])
    assert of(tmp_path, step, inputs=wide, initializers=axes).first_axis("y") == "batch"


def test_what_depends_on_the_data_is_told(tmp_path: Path) -> None:
    proof = of(tmp_path, node("NonZero", ["x"], ["y"]))
    assert proof.first_axis("y") == "other"
    assert proof.sized_by_data == {"y"}


def test_a_model_that_takes_one_row_mixes_none(tmp_path: Path) -> None:
    step = node("ReduceMean", ["x"], ["y"], attribute("axes", [0]))
    data = model([("x", FLOAT, [1, 4])], [("y", FLOAT, [1, 4])], [step])
    (tmp_path / "model.onnx").write_bytes(data)
    assert proven(tmp_path / "model.onnx").first_axis("y") == "batch"


def test_shapes_in_a_file_of_their_own_are_not_known(tmp_path: Path) -> None:
    shape = np.array([-1, 2, 2])
    steps = node("Reshape", ["x", "shape"], ["y"])
    assert of(tmp_path, steps, initializers=[weights("shape", shape)]).first_axis("y") == "batch"
    outside = weights("shape", shape, "shape.bin")
    assert of(tmp_path, steps, initializers=[outside]).first_axis("y") == "unknown"


def test_a_loop_is_not_looked_into(tmp_path: Path) -> None:
    body = b"\x0a\x04body\x32\x00\xa0\x01\x05"
    proof = of(tmp_path, node("Loop", ["x"], ["y"], body))
    assert (proof.first_axis("y"), proof.because_of["y"]) == ("unknown", "Loop")


@pytest.mark.parametrize(
    "nodes",
    [
        [node("Relu", ["x"], ["y"]), node("Tanh", ["x"], ["y"])],  # which one is it?
        [node("Relu", ["x"], ["x"]), node("Tanh", ["x"], ["y"])],
        [node("Softmax", ["x"], ["y"], attribute("axis", 0), attribute("axis", 1))],
        [node("Relu", ["b"], ["a"]), node("Relu", ["a"], ["b"]), node("Relu", ["b"], ["y"])],  # a circle
        [node("Relu", ["nowhere"], ["y"])],
        [node("Relu", [], ["y"])],
        [node("Concat", [], ["y"], attribute("axis", 1))],
        [node("Transpose", ["x"], ["y"], attribute("perm", [0, 0]))],
        [node("Transpose", ["x"], ["y"], attribute("perm", [0, 7]))],
        [node("Split", ["x"], [], attribute("axis", 1))],
    ],
    ids=range(10),
)
def test_nothing_is_known_of_what_cannot_be(tmp_path: Path, nodes: list[bytes]) -> None:
    assert of(tmp_path, *nodes).first_axis("y") == "unknown"


def test_ids_that_are_no_rows_of_a_table(tmp_path: Path) -> None:
    """Of those that an operation has changed, nothing can be said."""
    ids: list[Value] = [("ids", INT64, ["n", 4])]
    table = [weights("w", np.ones((9, 2), np.float32)), weights("one", np.array([1]))]
    direct, changed = node("Gather", ["w", "ids"], ["y"]), node("Gather", ["w", "more"], ["y"])
    assert of(tmp_path, direct, inputs=ids, initializers=table).ids_below == {"ids": 9}
    added = node("Add", ["ids", "one"], ["more"])
    proof = of(tmp_path, added, changed, inputs=ids, initializers=table)
    assert (proof.ids_below, proof.first_axis("y")) == ({}, "batch")
