"""What is proven of a model's rows is so: of the usual networks, and of programs that are put together at random."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from pdarchiver import signature
from pdarchiver.graph_files import read
from pdserver.handlers.rowwise.dims import Dim, product, quotient
from pdserver.handlers.rowwise.proof import Proof, prove

HERE = Path(__file__).parent


def proven(model: Path) -> Proof:
    return prove(model.read_bytes(), signature.read(model).signature.inputs)


def script(name: str, folder: Path, *arguments: str) -> None:
    command = [sys.executable, "-W", "ignore", str(HERE / name), str(folder), *arguments]
    done = subprocess.run(command, capture_output=True, env={**os.environ, "GLOG_minloglevel": "3"}, check=False)
    assert done.returncode == 0, done.stderr.decode()[-2000:]


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("usual")
    script("usual_models.py", folder)
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
    assert "batch" in set(prove(text.encode(), ()).outputs.values())
    for theirs in ("3.softmax", "my_lib.softmax"):
        changed = prove(text.replace('"1.softmax"', f'"{theirs}"').encode(), ())
        assert changed.because_of["fetch_name_0"] == theirs
        assert changed.outputs["fetch_name_0"] == "unknown"


@pytest.mark.parametrize("data", [b"", b"{", b"{}", b'{"program": 1}', b"\xff" * 50, b"\n\x05hello"])
def test_what_is_no_model_proves_nothing(data: bytes) -> None:
    assert prove(data, ()).first_axis("x") == "unknown"


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
    script("random_models.py", folder, "80")
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
