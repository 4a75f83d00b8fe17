"""What `--optimize` puts into an archive, and what it leaves alone."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from pdarchiver import archive, manifest, to_onnx
from pdarchiver.cli import main
from pdarchiver.errors import InvalidArchive, InvalidManifest, PackingError
from pdarchiver.manifest import EngineFile
from pdarchiver.optimize import FILE, optimize
from pdarchiver.pack import ArchiveFormat, PackOptions, pack
from tests import onnx_files
from tests.onnx_files import FLOAT, Value, node, weights

VERSIONS = {"paddle2onnx": "2.1.0"}
MADE = EngineFile(FILE, VERSIONS, ("x",), ("fetch_name_0",))


def packed(model: Path, folder: Path, form: ArchiveFormat = "default", extra: tuple[str, ...] = ()) -> Path:
    return pack(
        PackOptions(
            model_name="m", version="1.0", serialized_file=model, export_path=folder, archive_format=form,
            extra_files=extra,
        )
    )  # fmt: skip


@pytest.fixture
def makes(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """In place of paddle2onnx: any model becomes `input` float32[-1, 13] · weight -> `output`."""
    names = {"input": "x", "output": "fetch_name_0"}

    def convert(model: Path, params: Path | None, target: Path, seconds: float) -> None:
        nodes = [node("MatMul", [names["input"], "w"], [names["output"]])]
        inputs: list[Value] = [(names["input"], FLOAT, ["N", 13])]
        outputs: list[Value] = [(names["output"], FLOAT, ["N", 1])]
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(onnx_files.model(inputs, outputs, nodes, [weights("w", np.ones((13, 1), np.float32))]))

    monkeypatch.setattr(to_onnx, "convert", convert)
    monkeypatch.setattr(to_onnx, "versions", lambda: VERSIONS)
    return names


@pytest.mark.parametrize("form", get_args(ArchiveFormat))
def test_every_format_stays_what_it_is(
    linear: Path, tmp_path: Path, form: ArchiveFormat, makes: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """And a second run puts the same into it, in place of the first one's."""
    path = packed(linear, tmp_path, form)
    before = archive.inspect(path)
    assert optimize(path).made == MADE
    after = archive.inspect(path)
    assert after.format == before.format
    assert archive.verify(path).engines == (MADE,)
    assert {entry.path for entry in after.entries} >= {entry.path for entry in before.entries} | {FILE}
    if form in ("default", "zip-store"):
        assert all(entry.packed_bytes == entry.size_bytes for entry in after.entries) == (form == "zip-store")
        first = path.read_bytes()
        optimize(path)
        assert path.read_bytes() == first
    assert main(["inspect", str(path)]) == 0
    assert f"engine    {FILE} (made by paddle2onnx 2.1.0)" in capsys.readouterr().out


def test_what_is_made_of_it_must_be_the_same_model(linear: Path, tmp_path: Path, makes: dict[str, str]) -> None:
    path = packed(linear, tmp_path)
    before = path.read_bytes()
    makes["output"] = "other"
    done = optimize(path)
    assert (done.made, path.read_bytes()) == (None, before)
    assert done.reason.startswith("paddle2onnx does not convert linear.json: the output 'fetch_name_0' is missing")


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("print('Failed to convert PaddlePaddle model: no such operation.'); exit(1)", "no such operation"),
        ("print('so much for that'); exit(3)", "its process ended with status 3: so much for that"),
        ("import os; os.kill(os.getpid(), 11)", "its process was ended by signal 11"),
        ("import time; time.sleep(60)", "it took longer than 0.5 s"),
    ],
)
def test_why_it_is_not_converted_is_told(
    linear: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, reason: str
) -> None:
    """Whatever paddle2onnx does. The archive stays as it is."""
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{script}"\n')
    python.chmod(0o755)
    monkeypatch.setattr(to_onnx, "check_installed", lambda: None)
    monkeypatch.setattr(sys, "executable", str(python))
    path = packed(linear, tmp_path / "store")
    before = path.read_bytes()
    done = optimize(path, seconds=0.5 if "sleep" in script else 60)
    assert (done.made, path.read_bytes()) == (None, before)
    assert reason in done.reason


def test_what_needs_no_conversion_or_allows_none(models: Path, tmp_path: Path, makes: dict[str, str]) -> None:
    old = optimize(packed(models / "desc" / "linear.pdmodel", tmp_path / "old"))
    assert (old.made, old.reason) == (None, "OpenVINO reads linear.pdmodel as it is")
    onnx = onnx_files.linear(tmp_path / "model.onnx", np.ones((4, 3), np.float32))
    assert optimize(packed(onnx, tmp_path / "onnx")).made is None
    (tmp_path / "engines").mkdir()
    (tmp_path / "engines" / "model.onnx").touch()
    with pytest.raises(PackingError, match=r"engines/model\.onnx is a file of the model's own"):
        optimize(packed(models / "pir" / "linear.json", tmp_path / "own", extra=(str(tmp_path / "engines"),)))
    bare = pack(PackOptions(model_name="bare", version="1.0", export_path=tmp_path))
    with pytest.raises(PackingError, match="it holds no model with a signature"):
        optimize(bare)


def test_without_paddle2onnx(
    linear: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is packed."""
    monkeypatch.setattr(to_onnx, "find_spec", lambda name: None)
    flags = ["--model-name", "m", "--version", "1.0", "--export-path", str(tmp_path / "store"), "--optimize"]
    assert main([*flags, "--serialized-file", str(linear)]) == 1
    assert "pip install 'pdserver[convert]'" in capsys.readouterr().err
    assert not (tmp_path / "store").exists()


def test_the_section_of_the_manifest(linear: Path, tmp_path: Path, makes: dict[str, str]) -> None:
    """It is read as it is written, and refused where it does not fit the rest."""
    path = packed(linear, tmp_path, "no-archive")
    optimize(path, measure=lambda folder, described: {"made": (folder / described.engines[0].file).is_file()})
    file = path / "PDAR-INF" / "MANIFEST.json"
    root = json.loads(file.read_text())
    assert manifest.parse(file.read_bytes()).measured == {"made": True}
    assert manifest.dump(manifest.parse(file.read_bytes())) == file.read_bytes()
    for change, problem in (
        ({"file": "../model.onnx"}, "has a component that is empty"),
        ({"file": ""}, "/engines/0/file: expected a string"),
        ({"inputs": [1]}, "/engines/0/inputs: expected an array of names"),
        ({"inputs": []}, "/engines: number 0 does not name as many inputs"),
    ):
        wrong = {**root, "engines": [{**root["engines"][0], **change}]}
        with pytest.raises(InvalidManifest, match=problem):
            manifest.parse(json.dumps(wrong).encode())
    (path / FILE).unlink()
    with pytest.raises(InvalidArchive, match=FILE):
        archive.verify(path)
