"""What engines are given in a trial: the archive's samples first, then its warm-up, then made-up numbers."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pdarchiver.manifest import Signature, TensorSpec
from pdserver.errors import ConfigError
from pdserver.handlers.runtime.predictor_settings import ReshapeSettings
from pdserver.handlers.runtime.trial.inputs import Source, source

X = TensorSpec("x", "float32", (-1, 2), "x")
IDS = TensorSpec("ids", "int64", (-1, -1), "words")


def found(
    folder: Path,
    config: dict[str, Any],
    *specs: TensorSpec,
    rows: int = 4,
    reshape: ReshapeSettings | None = None,
    checksums: Mapping[str, str] = {},
) -> Source:
    return source(config, folder, Signature(specs or (X,), ()), reshape, rows, {"words": 10}, checksums)


def saved(folder: Path, **arrays: Any) -> None:
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", np.asarray(array))


def test_samples_come_first(tmp_path: Path) -> None:
    """All are compared; the rows of those of the first one's shape are timed, over and over. What is timed is
    compared as well."""
    saved(tmp_path, a=[[1.0, 2.0]], b=[[3.0, 4.0], [5.0, 6.0]])
    given = found(tmp_path, {"samples": [{"x": "a.npy"}, {"x": "b.npy"}], "warmup": [{}]})
    assert given.kind == "samples"
    inputs = given.read()
    one, four = inputs.timed
    assert one["x"].tolist() == [[1, 2]]
    assert four["x"].tolist() == [[1, 2], [3, 4], [5, 6], [1, 2]]
    assert [each["x"].tolist() for each in inputs.compared] == [[[3, 4], [5, 6]]]
    assert {each["x"].dtype.name for each in (*inputs.timed, *inputs.compared)} == {"float32"}


def test_samples_of_other_shapes_are_only_compared(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps([[1, 2, 3]]))
    (tmp_path / "b.json").write_text(json.dumps([[7, 8]]))
    inputs = found(tmp_path, {"samples": [{"ids": "a.json"}, {"ids": "b.json"}]}, IDS, rows=2).read()
    assert [each["ids"].tolist() for each in inputs.timed] == [[[1, 2, 3]], [[1, 2, 3]] * 2]
    assert [each["ids"].tolist() for each in inputs.compared] == [[[7, 8]]]
    assert inputs.timed[0]["ids"].dtype == np.int64


@pytest.mark.parametrize(
    ("config", "spec"), [({"interface": {"batched": False}}, X), ({}, TensorSpec("x", "float32", (2, 2), "x"))]
)
def test_nothing_is_put_together_without_a_batch_axis(tmp_path: Path, config: dict[str, Any], spec: TensorSpec) -> None:
    saved(tmp_path, a=[[1.0, 2.0], [3.0, 4.0]])
    inputs = found(tmp_path, {"samples": [{"x": "a.npy"}], **config}, spec).read()
    assert [each["x"].shape for each in inputs.timed] == [(2, 2)]


def test_a_first_sample_of_several_rows_is_compared_as_it_is(tmp_path: Path) -> None:
    saved(tmp_path, a=[[1.0, 2.0], [3.0, 4.0]])
    inputs = found(tmp_path, {"samples": [{"x": "a.npy"}]}).read()
    assert [each["x"].tolist() for each in inputs.compared] == [[[1, 2], [3, 4]]]


def test_samples_have_the_shapes_that_clients_send(tmp_path: Path) -> None:
    saved(tmp_path, a=np.ones((1, 2, 1), np.float64))
    inputs = found(tmp_path, {"samples": [{"x": "a.npy"}]}, reshape=ReshapeSettings(inputs={"x": [0, -1]})).read()
    assert inputs.timed[1]["x"].shape == (4, 2)


def test_a_warm_up_is_next_and_its_zeros_are_made_up(tmp_path: Path) -> None:
    warmup = [{"inputs": {"ids": {"shape": [3, 5]}, "x": {"shape": [3, 2], "data": "random"}}}]
    given = found(tmp_path, {"warmup": warmup}, IDS, X)
    assert given.kind == "warmup"
    one, four = given.read().timed
    assert (one["ids"].shape, four["ids"].shape) == ((1, 5), (4, 5))
    assert four["ids"].min() < four["ids"].max() < 10
    assert 0 < four["x"].min() < four["x"].max() < 1


def test_of_many_warm_up_requests_one_of_middle_size_is_taken(tmp_path: Path) -> None:
    """Workers may ask for dozens of shapes; a trial has no time for them."""
    warmup = [{"inputs": {"ids": {"shape": [rows, length]}}} for length in (90, 3, 7) for rows in (1, 4)]
    inputs = found(tmp_path, {"warmup": warmup}, IDS).read()
    assert [each["ids"].shape for each in inputs.timed] == [(1, 7), (4, 7)]
    assert not inputs.compared


def test_a_warm_up_of_the_handler_is_not_the_models(tmp_path: Path) -> None:
    inputs = found(tmp_path, {"warmup": [{"inputs": {"picture": {"file": "cat.jpg"}}}]}).read()
    assert inputs.kind == "made"
    assert [each["x"].shape for each in inputs.timed] == [(1, 2), (4, 2)]


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ("a.npy", r"samples: expected a list of requests, each with a file for each input, such as \[\{x: x\.npy\}\]"),
        ([{"y": "a.npy"}], r"samples\[0\]: the model has no input y"),
        ([{}], r"samples\[0\]: no file for the input x"),
        ([{"x": "a.npy"}, {"x": "b.npy"}], r"samples\[1\]\.x: no file b\.npy in the archive"),
        (
            [{"x": "../a.npy"}],
            r"samples\[0\]\.x: \.\./a\.npy has a component that is empty, '\.' or '\.\.'; name a",
        ),
        ([{"x": "leads_out.npy"}], r"samples\[0\]\.x: leads_out\.npy is outside the model's folder"),
        ([{"x": "\0.npy"}], r"samples\[0\]\.x: \\x00\.npy has a control character"),
        ([{"x": "a" * 300 + ".npy"}], r"samples\[0\]\.x: a+… has a component of more than 255 bytes"),
        ([{"x": "a.png"}], r"samples\[0\]\.x: a\.png: expected a \.npy file, or a \.json file"),
    ],
    ids=str,
)
def test_sections_that_are_wrong(tmp_path: Path, samples: Any, message: str) -> None:
    saved(tmp_path, a=[[1.0, 2.0]])
    (tmp_path / "leads_out.npy").symlink_to("/")
    with pytest.raises(ConfigError, match=message):
        found(tmp_path, {"samples": samples})


@pytest.mark.parametrize(
    ("array", "message"),
    [
        ([1.0, 2.0], r"samples\[0\]\.x: float64 of shape \[2\]: the model takes float32 of shape \[any, 2\]"),
        ([[1.0]], r"float64 of shape \[1, 1\]: the model takes"),
        ([[1j, 2j]], r"complex128 of shape \[1, 2\]: the model takes"),
        ([["a", "b"]], r"samples\[0\]\.x: a\.npy: the \.npy file cannot be read"),
    ],
)
def test_files_that_do_not_fit(tmp_path: Path, array: Any, message: str) -> None:
    saved(tmp_path, a=array)
    with pytest.raises(ConfigError, match=message):
        found(tmp_path, {"samples": [{"x": "a.npy"}]}).read()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[[1.5, 2]]", r"samples\[0\]\.ids: a\.json: expected numbers of int64, found float64"),
        ('[["1", "2"]]', "expected numbers of int64, found text"),
        ("[[null, 2]]", "expected numbers of int64, found something else"),
        ("[[true, false]]", "expected numbers of int64, found bool"),
        ("[[1], [1, 2]]", "inhomogeneous"),
        ("[[1, 10]]", r'samples\[0\]: input "ids": expected whole numbers from 0 to 9, .* got 10 at \[0\]\[1\]'),
        ("[[-1, 1]]", "got -1 at"),
    ],
)
def test_lists_that_no_client_could_send(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(ConfigError, match=message):
        found(tmp_path, {"samples": [{"ids": "a.json"}]}, IDS).read()


def test_what_inputs_depend_on(tmp_path: Path) -> None:
    """On what the samples hold, and not on when they were written."""
    config = {"samples": [{"x": "a.npy"}]}
    saved(tmp_path, a=[[1.0, 2.0]])
    before = found(tmp_path, config).about()
    assert found(tmp_path, config).about() == before
    assert found(tmp_path, config, rows=8).about() != before
    os.utime(tmp_path / "a.npy", ns=(1, 1))
    assert found(tmp_path, config).about() == before, "the same, unpacked once more"
    saved(tmp_path, a=[[1.0, 2.0], [1.0, 2.0]])
    assert found(tmp_path, config).about() != before


def test_samples_whose_checksums_the_archive_has_are_not_read_to_know_them(tmp_path: Path) -> None:
    saved(tmp_path, a=[[1.0, 2.0]])
    known = found(tmp_path, {"samples": [{"x": "a.npy"}]}, checksums={"a.npy": "abc"})
    (tmp_path / "a.npy").unlink()
    assert known.about() == [[1, 4], [{"x": "abc"}]]
