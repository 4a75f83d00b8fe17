"""Pipelines are packed by the real command, with a real model inside, and shown and verified as they were packed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pdarchiver import PackOptions, archive, inspect, pack, verify
from pdarchiver.display import print_rich
from pdarchiver.errors import InvalidManifest, InvalidPipeline
from pdarchiver.manifest import MANIFEST_PATH, parse
from pdarchiver.pipeline.packing import PipelineOptions, pack_pipeline

SCRIPT = Path(sys.executable).with_name("pd-model-archiver")
Run = Callable[..., "subprocess.CompletedProcess[str]"]
PRICES = """\
inputs: {csv: text}
outputs: {prices: tell.text, mean: mean.mean}
fuse: [[estimate, tell]]
samples: [{csv: samples/two.csv}]
nodes:
  split:
    python: code/steps.py:Split
    inputs: {csv: csv}
    outputs: {rows: "float32[-1, 13]"}
    settings: {minWorkers: 2}
  estimate:
    archive: models/price.pdar
    inputs: {x: split.rows}
  tell:
    python: code/steps.py:tell
    inputs: {price: estimate.fetch_name_0}
    outputs: {text: text}
  mean:
    model: mean
    version: "2"
    inputs: {x: split.rows, hint: {from: tell.text, optional: true}}
    when: tell.text
    timeout: 2 s
    retry: 1
"""
STEPS = """\
class Split:
    def handle(self, data, context): ...


def tell(data, context): ...
"""


@pytest.fixture(autouse=True)
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the command in a folder of its own, which is the test's working directory as well."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)

    def run(*args: object, status: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run([SCRIPT, *map(str, args)], capture_output=True, text=True)
        assert done.returncode == status, done.stderr
        assert "Traceback" not in done.stderr
        return done

    return run


@pytest.fixture
def folder(linear: Path) -> Path:
    """The folder `prices` with a pipeline and all that it names."""
    for path, text in (("pipeline.yaml", PRICES), ("code/steps.py", STEPS), ("samples/two.csv", "1,2\n")):
        Path("prices", path).parent.mkdir(parents=True, exist_ok=True)
        Path("prices", path).write_text(text)
    pack(PackOptions(model_name="price", version="1", serialized_file=linear, export_path=Path("prices/models")))
    return Path("prices")


def packed(folder: Path) -> Path:
    return pack_pipeline(
        PipelineOptions(model_name="prices", version="1", pipeline=folder / "pipeline.yaml", export_path=Path("out"))
    ).path


def test_a_pipeline_is_packed_shown_and_verified(folder: Path, run: Run) -> None:
    Path("requirements.txt").write_text("numpy\n")
    Path("names.json").write_text("{}")
    Path("model-config.yaml").write_text("responseTimeout: 3\n")
    flags = ("--model-name", "prices", "--version", "1.0", "--pipeline", folder / "pipeline.yaml")
    more = ("-r", "requirements.txt", "-c", "model-config.yaml", "--extra-files", "names.json")
    done = run(*flags, *more, "--export-path", "store")
    assert done.stderr == ""
    wrote, unchecked = done.stdout.splitlines()
    assert wrote.startswith("wrote store/prices.pdar (")
    assert wrote.endswith("): csv text -> prices text, mean")
    assert unchecked == "not checked against models of the store, which are asked for at registering: mean"

    info = inspect(Path("store/prices.pdar"))
    assert info.manifest.pipeline == "pipeline.yaml"
    assert (info.manifest.requirements_file, info.manifest.config_file) == ("requirements.txt", "model-config.yaml")
    assert "handler" not in info.manifest.raw["model"]
    assert {entry.path for entry in info.entries} == {
        *(MANIFEST_PATH, "pipeline.yaml", "code/steps.py", "models/price.pdar", "samples/two.csv"),
        *("requirements.txt", "model-config.yaml", "names.json"),
    }
    assert run("verify", "store/prices.pdar").stdout == "store/prices.pdar: in order, 7 files as they were packed\n"
    lines = run("inspect", "store/prices.pdar").stdout.splitlines()
    assert lines[1:10] == [
        "model     prices  version 1.0",
        "pipeline  4 nodes",
        "fused     estimate, tell",
        "input     csv  text",
        "output    prices  tell.text",
        "output    mean  mean.mean",
        "node      split     code/steps.py:Split   csv: csv  -> rows float32[-1, 13]",
        "node      estimate  models/price.pdar     x: split.rows  -> fetch_name_0 float32[-1, 1]",
        "node      tell      code/steps.py:tell    price: estimate.fetch_name_0  -> text text",
    ]
    assert lines[10] == (
        "node      mean      model mean version 2  x: split.rows, hint: tell.text if there  when tell.text"
        "  timeout 2 s  retry 1"
    )
    shown = json.loads(run("inspect", "store/prices.pdar", "--json").stdout)
    assert shown["pipeline"]["nodes"][1] == {
        "path": "estimate",
        "runs": "models/price.pdar",
        "inputs": {"x": ["split.rows"]},
        "outputs": {"fetch_name_0": "float32[-1, 1]"},
    }


@pytest.mark.parametrize("place", ["archive", "folder"])
def test_what_models_inside_give_is_shown(folder: Path, run: Run, linear: Path, place: str) -> None:
    """Of models in archives and in folders, in graphs within the graph; not of those that are damaged."""
    (folder / "plain").mkdir()
    for file in (linear, linear.with_suffix(".pdiparams")):
        shutil.copy(file, folder / "plain")
    shutil.copy(folder / "models/price.pdar", folder / "models/bad.pdar")
    (folder / "pipeline.yaml").write_text(
        """\
inputs: {x: "float32[-1, 13]"}
outputs: {a: a.fetch_name_0, b: b.b, c: c.body, d: d.fetch_name_0}
nodes:
  a: {archive: models/price.pdar, inputs: {x: x}}
  b:
    inputs: {x: x}
    nodes: {in: {archive: plain, inputs: {x: x}}}
    outputs: {b: in.fetch_name_0}
  c: {archive: models/price.pdar, opaque: true, inputs: {x: c0.x}}
  c0: {python: "code/steps.py:tell", inputs: {x: x}, outputs: {x: bytes}}
  d: {archive: models/bad.pdar, inputs: {x: x}}
"""
    )
    path = packed(folder)
    if place == "folder":
        archive.unpack(path, Path("whole"))
        path = Path("whole")
        (path / "models/bad.pdar").write_bytes(b"")
    shown = json.loads(run("inspect", path, "--json").stdout)
    assert {node["path"]: node["outputs"] for node in shown["pipeline"]["nodes"]} == {
        "c0": {"x": "bytes"},
        "a": {"fetch_name_0": "float32[-1, 1]"},
        "b": {"b": "any"},
        "b/in": {"fetch_name_0": "float32[-1, 1]"},
        "c": {"body": "any"},
        "d": {"fetch_name_0": "float32[-1, 1]"} if place == "archive" else {},
    }


def test_a_terminal_shows_a_tree(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "pipeline.yaml").write_text(
        """\
inputs: {rows: "list of float32[13]"}
outputs: {prices: all.price}
batched: false
contract: paddle-serving/pipeline
fuse: auto
nodes:
  all:
    each: row
    on_error: skip
    inputs: {row: rows}
    nodes:
      estimate: {archive: models/price.pdar, inputs: {x: row}, repeat: {while: fetch_name_0, at_most: 3}}
    outputs: {price: estimate.fetch_name_0}
"""
    )
    path = packed(folder)
    print_rich(path, inspect(path))
    shown = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert [line.split() for line in shown[1:5]] == [
        ["model", "prices", "version", "1"],
        ["pipeline", "2", "nodes", "contract", "paddle-serving/pipeline", "fuse", "auto"],
        ["input", "rows", "list", "of", "float32[13]"],
        ["output", "prices", "all.price"],
    ]
    assert shown[5:13] == [
        "nodes",
        "└── all  1 node",
        "├── row ← rows",
        "├── each row  on_error skip",
        "├── → price: estimate.fetch_name_0",
        "└── estimate  models/price.pdar",
        "├── x ← row",
        "└── again while fetch_name_0, at most 3 times",
    ]


def test_the_same_files_give_the_same_bytes(folder: Path, run: Run) -> None:
    once = packed(folder).read_bytes()
    moved = shutil.copytree(folder, "elsewhere")
    run("--model-name", "prices", "--version", "1", "--pipeline", f"{moved}/pipeline.yaml")
    assert Path("prices.pdar").read_bytes() == once


def test_models_inside_may_be_folders(folder: Path, linear: Path, run: Run) -> None:
    """Of a model as Paddle saves it, or of an archive."""
    model = folder / "models/price"
    model.mkdir()
    for file in (linear, linear.with_suffix(".pdiparams")):
        shutil.copy(file, model / ("inference" + file.suffix))
    text = PRICES.replace("models/price.pdar", "models/price")
    (folder / "pipeline.yaml").write_text(text)
    path = packed(folder)
    assert {"models/price/inference.json", "models/price/inference.pdiparams"} < verify(path).files.keys()
    shutil.rmtree(model)
    archive.unpack(folder / "models/price.pdar", model)
    path.unlink()
    assert "models/price/PDAR-INF/MANIFEST.json" in verify(packed(folder)).files
    (model / "linear.json").unlink()
    (folder / "pipeline.yaml").write_text(text.replace("fetch_name_0", "fetch_name_1"))
    error = run("--model-name", "m", "--version", "1", "--pipeline", folder / "pipeline.yaml", status=1).stderr
    assert error == (
        f"pd-model-archiver: error: {folder}/pipeline.yaml: nodes.tell.inputs.price: the node 'estimate' has no output "
        "'fetch_name_1' (did you mean 'fetch_name_0'?); it has fetch_name_0\n"
    )


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ("steps.py:Split", "stps.py:Split", "split.python: no 'code/stps.py' beside the pipeline's file (did you mean "
            "'code/steps.py'?)"),
        ("steps.py:Split", "steps.py:Splt", "split.python: code/steps.py: has no function or class 'Splt' at its "
            "top level (did you mean 'Split'?)"),
        ("steps.py:Split", "bad.py", "split.python: code/bad.py:1: not valid Python: '(' was never closed"),
        ("steps.py:Split", "other.py:Other", "split.python: code/other.py:1: class Other has no method handle(self, "
            "data, context)"),
        ("steps.py:Split", "other.py", "split.python: code/other.py: nothing to call: define a class with "
            "handle(self, data, context), derive one from pdserver.handlers.base.BaseHandler, or define a function "
            "handle(data, context)"),
        ("models/price.pdar", "models/prise.pdar", "estimate.archive: no 'models/prise.pdar' beside the pipeline's "
            "file (did you mean 'models/price.pdar'?)"),
        ("models/price.pdar", "code/steps.py", "estimate.archive: {}/code/steps.py: neither a zip (.pdar, .mar) nor a "
            "tar.gz: its first bytes are b'clas'"),
        ("models/price.pdar", "code", "estimate.archive: {}/code: no model in this folder; expected inference.json or "
            "inference.pdmodel with its .pdiparams, an .onnx file, or a Paddle Serving folder with "
            "serving_server_conf.prototxt"),
        ("models/price.pdar", "inner.pdar", "estimate.archive: 'inner.pdar' holds a pipeline: register that by itself, "
            "and name it with `model:`"),
        ("float32[-1, 13]", "float32[-1, 12]", "estimate.inputs.x: is float32[-1, 12], and the model takes "
            "float32[-1, 13]"),
        ("samples/two.csv", "samples/too.csv", "samples[0].csv: no 'samples/too.csv' beside the pipeline's file (did "
            "you mean 'samples/two.csv'?)"),
    ],
)  # fmt: skip
def test_what_can_not_be_packed(folder: Path, old: str, new: str, error: str) -> None:
    (folder / "code/bad.py").write_text("print(\n")
    (folder / "code/other.py").write_text("class Other:\n    pass\n")
    if new == "inner.pdar":
        shutil.move(packed(folder), folder / new)
    (folder / "pipeline.yaml").write_text(PRICES.replace(old, new))
    with pytest.raises(InvalidPipeline) as raised:
        packed(folder)
    place = "" if error.startswith("samples") else "nodes."
    assert str(raised.value) == f"{folder}/pipeline.yaml: {place}{error.format(folder)}"


@pytest.mark.parametrize(
    ("flags", "error"),
    [
        (("--handler", "base_handler"), "--handler: has no meaning beside --pipeline"),
        (("--serialized-file", "m.json"), "--serialized-file: has no meaning beside --pipeline"),
        (("--params-file", "m.pdiparams"), "--params-file: has no meaning beside --pipeline"),
        (("--model-file", "m.py"), "--model-file: has no meaning beside --pipeline"),
    ],
)
def test_flags_of_models_are_refused(run: Run, flags: tuple[str, ...], error: str) -> None:
    done = run("--model-name", "m", "--version", "1", "--pipeline", "p.yaml", *flags, status=2)
    assert f"{error}, whose nodes name models and code\n" in done.stderr


def test_files_that_are_not_there(run: Run) -> None:
    flags = ("--model-name", "m", "--version", "1", "--pipeline")
    assert "--pipeline p.yaml: no such file\n" in run(*flags, "p.yaml", status=1).stderr
    assert "--pipeline .: not a file\n" in run(*flags, ".", status=1).stderr


def test_an_archive_that_lacks_what_its_pipeline_names_is_not_in_order(folder: Path) -> None:
    path = folder / "folder"
    archive.unpack(packed(folder), path)
    (path / "PDAR-INF/MANIFEST.json").write_text('{"model": {"modelName": "m"}, "pipeline": "pipeline.yaml"}')
    verify(path)
    (path / "code/steps.py").unlink()
    with pytest.raises(InvalidPipeline, match=r"folder: nodes\.split\.python: no 'code/steps\.py' beside the"):
        verify(path)
    (path / "pipeline.yaml").write_text("nodes: 3")
    with pytest.raises(InvalidPipeline, match=r"folder: pipeline\.yaml: inputs: missing"):
        inspect(path)


def test_a_manifest_names_a_model_or_a_pipeline() -> None:
    assert parse(b'{"model": {}, "pipeline": "p/pipeline.yaml"}').pipeline == "p/pipeline.yaml"
    for manifest, error in (
        (b'{"pipeline": "../p.yaml"}', r"^manifest /pipeline: the name '\.\./p\.yaml' has a component"),
        (b'{"pipeline": 3}', r"^manifest /pipeline: expected a string, found 3"),
        (b'{"model": {"modelFile": "m.py"}, "pipeline": "p.yaml"}', r"^manifest /model/modelFile: an archive holds a"),
    ):
        with pytest.raises(InvalidManifest, match=error):
            parse(manifest)
