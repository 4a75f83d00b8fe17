"""What is proven of a model's rows is so: of the usual networks, and of programs that are put together at random."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from pdarchiver import signature
from pdarchiver.graph_files import read
from pdserver.handlers.runtime.rowwise.dims import Dim, product, quotient
from pdserver.handlers.runtime.rowwise.proof import Proof, of_file, prove
from tests.conftest import run_script

HERE = Path(__file__).parent


def proven(model: Path) -> Proof:
    return of_file(model, signature.read(model).signature.inputs)


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("usual")
    run_script(HERE / "usual_models.py", folder)
    with zipfile.ZipFile(HERE / "usual_models.zip") as archive:
        archive.extractall(folder)
    return folder


def test_the_usual_networks_are_known_to_work_row_by_row(usual: Path) -> None:
    models = [*usual.glob("*.json"), *usual.glob("*.pdmodel")]
    assert len(models) == 34
    for model in models:
        proof = proven(model)
        assert proof.outputs, model.name
        assert set(proof.outputs.values()) == {"batch"}, (model.name, proof)


@pytest.mark.parametrize("suffix", ["json", "pdmodel"])
def test_how_many_rows_an_embedding_has(usual: Path, suffix: str) -> None:
    assert proven(usual / f"bert.{suffix}").ids_below == {"input_ids": 100, "token_type_ids": 2}
    assert proven(usual / f"table.{suffix}").ids_below == {"user": 50, "item": 60}
    assert proven(usual / f"statistics.{suffix}").ids_below == {}


def test_both_formats_are_one_vocabulary(usual: Path) -> None:
    """An operation that is not in the list of the older format's keeps its own name."""
    for model in usual.glob("*.pdmodel"):
        assert not [step.kind for step in read(model.read_bytes()).operations if step.kind.startswith("legacy.")]


def test_an_operation_of_a_library_is_not_taken_for_one_of_paddles(usual: Path) -> None:
    text = (usual / "statistics.json").read_text()
    assert "batch" in set(prove(read(text.encode()), ()).outputs.values())
    for theirs in ("3.softmax", "my_lib.softmax"):
        changed = prove(read(text.replace('"1.softmax"', f'"{theirs}"').encode()), ())
        assert changed.because_of["fetch_name_0"] == theirs
        assert changed.outputs["fetch_name_0"] == "unknown"


def program(*operations: dict[str, Any], fetched: int, shape: tuple[int, ...] = (-1, 4)) -> bytes:
    """A .json model with one input, value 1, and one output."""
    data = {"#": "1.data", "A": [{"N": "name", "AT": {"#": "0.a_str", "D": "x"}}], "I": [], "O": [value(1, *shape)]}
    place = [{"N": "name", "AT": {"#": "0.a_str", "D": "y"}}, {"N": "col", "AT": {"#": "0.a_i32", "D": 0}}]
    fetch = {"#": "1.fetch", "A": place, "I": [{"%": fetched}], "O": [value(99, *shape)]}
    return json.dumps({"program": {"regions": [{"blocks": [{"ops": [data, *operations, fetch]}]}]}}).encode()


def value(number: int, *shape: int) -> dict[str, Any]:
    return {"%": number, "TT": {"#": "0.t_dtensor", "D": [{"#": "0.t_f32"}, list(shape)]}}


def step(name: str, inputs: list[int], *outputs: dict[str, Any], **attributes: Any) -> dict[str, Any]:
    operands = [{"%": number} for number in inputs]
    given = [{"N": key, "AT": attribute(held)} for key, held in attributes.items()]
    return {"#": name, "A": given, "I": operands, "O": list(outputs)}


def attribute(held: Any) -> dict[str, Any]:
    return (
        {"#": "0.a_array", "D": [{"D": item} for item in held]} if isinstance(held, list) else {"#": "0.a", "D": held}
    )


def numbers(number: int, *held: int) -> dict[str, Any]:
    return step("1.full_int_array", [], value(number, len(held)), value=list(held))


ROW_0 = (numbers(5, 0), numbers(6, 1), numbers(7, 1))
SET_ROW_0 = step("1.set_value_", [1, 5, 6, 7], value(8, -1, 4), axes=[0], decrease_axes=[0], values=[0.0])
SET_COLUMN_0 = step("1.set_value_", [1, 5, 6, 7], value(3, -1, 4), axes=[1], decrease_axes=[1], values=[0.0])


def of(data: bytes) -> str:
    return prove(read(data), ()).first_axis("y")


def test_what_is_written_in_place_changes_all_that_share_its_memory() -> None:
    relu = step("1.relu", [1], value(2, -1, 4))
    assert of(program(relu, *ROW_0, SET_ROW_0, fetched=2)) == "batch"  # made before
    assert of(program(*ROW_0, SET_ROW_0, relu, fetched=2)) == "unknown"  # made of it afterwards
    assert of(program(*ROW_0, SET_COLUMN_0, fetched=3)) == "batch"
    assert of(program(*ROW_0, SET_COLUMN_0, SET_ROW_0, fetched=3)) == "unknown"  # is the same memory
    assert of(program(*ROW_0, SET_ROW_0, fetched=1)) == "unknown"


def test_what_is_taken_out_of_a_list_is_what_was_put_into_it() -> None:
    relu = step("1.relu", [1], value(2, -1, 4))
    combined = step("0.combine", [1, 2], {"%": 10, "TT": {"#": "0.t_vec", "D": [value(1, -1, 4)["TT"]] * 2}})
    taken = step("0.slice", [10], value(11, -1, 4), index=0)
    set_taken = step("1.set_value_", [11, 5, 6, 7], value(12, -1, 4), axes=[0], decrease_axes=[0], values=[0.0])
    last = step("1.concat", [10, 13], value(14, -1, 8))
    before, after = (relu, combined, taken, *ROW_0), (numbers(13, 1), last)
    assert of(program(*before, *after, fetched=14)) == "batch"
    assert of(program(*before, *after, set_taken, fetched=14)) == "batch"
    assert of(program(*before, set_taken, *after, fetched=14)) == "unknown"
    assert of(program(*before, set_taken, fetched=1)) == "unknown"


NORM = [1, 20, 21, 22, 23]
"""Of value 1, by a mean, a variance, a scale and a bias."""
WEIGHTS = [{"#": "p", "A": [], "I": [], "O": value(number, 4)} for number in NORM[1:]]


@pytest.mark.parametrize(
    ("tests", "trainable", "fixed", "expected"),
    [
        (True, False, False, "batch"),
        (True, True, False, "unknown"),
        (False, False, False, "unknown"),
        (False, False, True, "batch"),
        (True, True, True, "batch"),
    ],
)
def test_batch_norm_mixes_rows_where_it_takes_the_batchs_statistics(
    tests: bool, trainable: bool, fixed: bool, expected: str
) -> None:
    how = {"is_test": tests, "trainable_statistics": trainable, "use_global_stats": fixed}
    twice = [step("1.batch_norm_", NORM, value(number, -1, 4), **how) for number in (30, 31)]
    assert of(program(*WEIGHTS, twice[0], fetched=30)) == expected
    assert of(program(*WEIGHTS, *twice, fetched=31)) == expected  # it writes to no weights, or to all of them


def test_batch_norm_of_the_older_format(usual: Path) -> None:
    data = (usual / "table.pdmodel").read_bytes()
    for name, value, expected in (("use_global_stats", False, "batch"), ("trainable_statistics", True, "unknown")):
        before, after = (name.encode() + b"\x10\x06P" + bytes([held]) for held in (not value, value))
        assert data.count(before) == 1
        data = data.replace(before, after)
        assert set(prove(read(data), ()).outputs.values()) == {expected}


def test_statistics_that_were_learned_of_a_batch_are_not_constant() -> None:
    learn = step("1.batch_norm_", NORM, value(30, -1, 4), is_test=False)
    test = step("1.batch_norm_", NORM, value(31, -1, 4), is_test=True)
    assert of(program(*WEIGHTS, test, fetched=31)) == "batch"
    assert of(program(*WEIGHTS, learn, test, fetched=31)) == "unknown"


def test_what_is_written_to_within_a_condition_is_not_known_afterwards() -> None:
    decide = {**step("1.if", [1], value(2, -1, 4)), "regions": [{"blocks": [{"ops": [*ROW_0, SET_ROW_0]}]}]}
    assert of(program(step("1.relu", [1], value(4, -1, 4)), decide, fetched=4)) == "batch"
    assert of(program(decide, step("1.relu", [1], value(4, -1, 4)), fetched=4)) == "unknown"


@pytest.mark.parametrize(
    ("shape", "wanted", "expected"),
    [
        ((-1, 4), [0, 2, 2], "batch"),
        ((-1, 4), [-1, 2, 2], "batch"),
        ((-1, 4), [-1, 2], "other"),  # two for each row
        ((-1, 4), [4, -1], "unknown"),
        ((-1, 4), [1, -1, 4], "other"),  # along another axis
        ((-1, -1, 4), [-1, 4], "other"),
        ((-1, -1, 4), [0, -1], "batch"),
        ((-1, -1, 4), [-1, 8], "unknown"),
        ((2, 4), [2, 2, 2], "batch"),
        ((2, 4), [4, 2], "other"),
        ((2, 3), [3, 2], "unknown"),  # torn apart
    ],
)
def test_reshape(shape: tuple[int, ...], wanted: list[int], expected: str) -> None:
    made = step("1.reshape", [1, 5], value(2, *([-1] * len(wanted))))
    assert of(program(numbers(5, *wanted), made, fetched=2, shape=shape)) == expected


def test_a_model_that_takes_one_row_mixes_none() -> None:
    mean = step("1.mean", [1, 5], value(2, 1, 4), keepdim=True)
    assert of(program(numbers(5, 0), mean, fetched=2, shape=(1, 4))) == "batch"
    assert of(program(numbers(5, 0), mean, fetched=2, shape=(-1, 4))) == "unknown"
    assert of(program(step("1.nonzero", [1], value(2, -1, 2)), fetched=2, shape=(1, 4))) == "other"


@pytest.mark.parametrize("data", [b"", b"{", b"{}", b'{"program": 1}', b"\xff" * 50, b"\n\x05hello"])
@pytest.mark.parametrize("suffix", ["json", "onnx"])
def test_what_is_no_model_proves_nothing(tmp_path: Path, suffix: str, data: bytes) -> None:
    model = tmp_path / f"model.{suffix}"
    model.write_bytes(data)
    assert of_file(model, ()).first_axis("x") == "unknown"


def test_products() -> None:
    rows, steps = Dim(1, ("N",)), Dim(1, ("T",))
    both = product((rows, Dim(12), steps))
    assert both == Dim(12, ("N", "T"))
    assert quotient(both, steps) == Dim(12, ("N",))
    assert quotient(both, Dim(4, ("N",))) == Dim(3, ("T",))
    assert quotient(both, Dim(5)) is None
    assert quotient(rows, both) is None
    assert quotient(both, Dim(0)) is None


@pytest.fixture(scope="module")
def random_models(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Path, dict[str, bool]]]:
    """Models, and of each output whether a batch gave what each of its rows gives by itself."""
    folder = tmp_path_factory.mktemp("random")
    run_script(HERE / "random_models.py", folder, 80)
    found: dict[str, dict[str, bool]] = json.loads((folder / "found.json").read_text())
    return [(folder / name, outputs) for name, outputs in found.items()]


def test_what_is_proven_is_so(random_models: list[tuple[Path, dict[str, bool]]]) -> None:
    known = true = 0
    for model, outputs in random_models:
        proof = proven(model)
        for name, is_so in outputs.items():
            claimed = proof.first_axis(name) == "batch"
            assert is_so or not claimed, (model.name, name, describe(model))
            true += is_so
            known += claimed
    assert true > 30
    assert known >= 0.8 * true  # and what is so is known, as a rule


def describe(model: Path) -> list[Any]:
    return [
        (step.kind, step.inputs, step.outputs, dict(step.attributes)) for step in read(model.read_bytes()).operations
    ]
