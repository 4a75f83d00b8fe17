"""`pd-workflow-archiver` as users run it, beside TorchServe's own command; and what is wrong with workflows."""

from __future__ import annotations

import json
import subprocess
import zipfile
from pathlib import Path

import pytest

from pdarchiver.errors import ArchiveError, InvalidManifest, InvalidPipeline
from pdarchiver.workflow.manifest import MANIFEST_PATH, dump, parse
from pdarchiver.workflow.pack import WorkflowOptions, pack
from pdarchiver.workflow.spec import NodeSettings, check_functions, read
from tests.running import BIN

SPEC = """
models:
  min-workers: 1
  max-workers: 2
  batch-size: 4
  max-batch-delay : 100
  retry-attempts: 3
  timeout-ms: 5000
  german: {url: german.mar, batch-size: 8}
  french:
    url: https://models.example/french.mar
    min-workers: 2
dag:
  prepare: [german, french]
  german: [join]
  french: [join, '']
"""
FUNCTIONS = "def prepare(data, context): ...\ndef join(data, context): ...\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test's working directory has a workflow."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1600000000")
    Path("spec.yaml").write_text(SPEC)
    Path("functions.py").write_text(FUNCTIONS)


def run(*args: str, command: str = "pd-workflow-archiver", status: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([BIN / command, *args], capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    return done


def contents(path: str) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_its_archives_are_those_of_torch_workflow_archiver() -> None:
    """Same flags, same files, same manifest but for its date and the archiver's version."""
    Path("words.txt").write_text("a b")
    Path("more.txt").write_text("c")
    flags = ("--workflow-name", "wf", "--spec-file", "spec.yaml", "--handler", "functions.py")
    extra = ("--extra-files", "words.txt,more.txt")
    for command, place in (("torch-workflow-archiver", "theirs"), ("pd-workflow-archiver", "ours")):
        Path(place).mkdir()
        run(*flags, *extra, "--export-path", place, command=command)
    theirs, ours = (contents(f"{place}/wf.war") for place in ("theirs", "ours"))
    assert theirs.keys() == ours.keys() == {"spec.yaml", "functions.py", "words.txt", "more.txt", MANIFEST_PATH}
    manifests = [json.loads(each.pop(MANIFEST_PATH)) for each in (theirs, ours)]
    assert theirs == ours
    assert manifests[0].keys() == manifests[1].keys()
    assert manifests[0]["workflow"] == manifests[1]["workflow"]
    assert manifests[1]["createdOn"] == "13/09/2020 12:26:40"

    said = run(*flags, "--export-path", "ours", status=1).stderr
    assert said == "pd-workflow-archiver: error: ours/wf.war exists already; replace it with --force\n"
    first = Path("ours/wf.war").read_bytes()
    assert run(*flags, *extra, "--export-path", "ours", "-f").stdout.endswith(": prepare, german, french, join\n")
    assert Path("ours/wf.war").read_bytes() == first, "equal files and dates give equal bytes"
    assert "--handlr: unknown flag, did you mean --handler?" in run("--handlr", "x", status=2).stderr


def test_what_a_specification_says() -> None:
    workflow = read(SPEC.encode(), "spec.yaml")
    nodes = {node.name: node for node in workflow.nodes}
    assert list(nodes) == ["prepare", "german", "french", "join"]
    assert nodes["german"].settings == NodeSettings(1, 2, 8, 100, 3, 5000)
    assert nodes["french"].settings == NodeSettings(2, 2, 4, 100, 3, 5000)
    assert nodes["join"].settings == NodeSettings(1, 1, 1, 0, 3, 5000), "functions are asked one by one"
    assert nodes["join"].parents == ("german", "french")
    assert (nodes["prepare"].parents, workflow.functions, workflow.leaves) == ((), ("prepare", "join"), ("join",))
    alone = read(b"models: {m: {url: m.pdar, min-workers: 3}}\ndag: {m: }", "spec.yaml")
    [node] = alone.nodes
    assert node.settings == NodeSettings(3, 3), "the defaults are TorchServe's; nobody said that there may not be three"


WRONG = [
    ("", "spec.yaml: expected a mapping (key: value), found nothing"),
    ("dag: {a: [b]", "spec.yaml:1: "),
    ("[a]", "spec.yaml: expected a mapping (key: value), found ["),
    ("model: {}\ndag: {f: []}", "spec.yaml: model: unknown key (did you mean 'models'?); there are models and dag"),
    ("models: {}", "spec.yaml: dag: expected a mapping (key: value), found nothing"),
    ("dag: {}", "spec.yaml: dag: expected at least one node, such as prepare: [m1]"),
    ("dag: {1: []}", "spec.yaml: dag: the key 1 is not text; put it in quotes"),
    ("dag: {f: g}", 'spec.yaml: dag.f: expected a list of nodes, such as [m1], found "g"'),
    ("dag: {f: [1]}", "spec.yaml: dag.f: expected names of nodes, found 1"),
    ("dag: {f: ['a b']}", "spec.yaml: dag.f: 'a b' is no name for a node: expected letters, digits, dots"),
    ("dag: {f: [g], g: [h], h: [f]}", "spec.yaml: dag: it goes in a circle: "),
    ("dag: {f: [f]}", "spec.yaml: dag: it goes in a circle: f -> f"),
    (f"dag: {{f: [{', '.join(f'g{n}' for n in range(100))}]}}", "spec.yaml: dag: 101 nodes; at most 100 are accepted"),
    (f"{'m' * 999}: 1", "spec.yaml: " + "m" * 100 + ": unknown key; there are models and dag"),
    ("dag: {f: [], f: []}", "spec.yaml:1: key 'f' is given twice"),
    ("models: {m: {}}\ndag: {m: []}", "spec.yaml: models.m.url: expected the name of an archive in the model store"),
    ("models: {m: {url: 5}}\ndag: {m: []}", "spec.yaml: models.m.url: expected the name of an archive"),
    ("models: {m: {uri: x}}\ndag: {m: []}", "spec.yaml: models.m.url: expected the name of an archive"),
    (
        "models: {m: {url: x, batch_size: 3}}\ndag: {m: []}",
        "spec.yaml: models.m.batch_size: unknown key (did you mean 'batch-size'?); there are url, min-workers",
    ),
    (
        "models: {batch-sise: 3}\ndag: {f: []}",
        "spec.yaml: models.batch-sise: expected a model, such as {url: m1.pdar}, or one of the settings min-workers",
    ),
    (
        "models: {m: {url: x, batch-size: 0}}\ndag: {m: []}",
        "spec.yaml: models.m.batch-size: expected a whole number from 1 to 4096, found 0",
    ),
    (
        "models: {timeout-ms: 2.5}\ndag: {f: []}",
        "spec.yaml: models.timeout-ms: expected a whole number from 1 to 3600000, found 2.5",
    ),
    (
        "models: {retry-attempts: true}\ndag: {f: []}",
        "spec.yaml: models.retry-attempts: expected a whole number from 0 to 100, found true",
    ),
    (
        "models: {max-workers: 2, m: {url: x, min-workers: 3}}\ndag: {m: []}",
        "spec.yaml: models.m.max-workers: 2 is less than min-workers, 3",
    ),
    (
        "models: {german: {url: x}}\ndag: {f: [germane]}",
        "spec.yaml: models.german: the dag does not have it (did you mean 'germane'?)",
    ),
    ("dag: {prepair: [join]}", "spec.yaml: dag.prepair: neither a model nor a function of functions.py (did you mean"),
]


@pytest.mark.parametrize(("text", "said"), WRONG, ids=[said.partition(": ")[2][:40] for _, said in WRONG])
def test_what_is_wrong_with_a_specification(text: str, said: str) -> None:
    with pytest.raises(InvalidPipeline) as caught:
        check_functions(read(text.encode(), "spec.yaml"), Path("functions.py"), "spec.yaml")
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"workflow_name": "a/b"}, "workflow name 'a/b': must start with a letter or a digit"),
        ({"workflow_name": "w" * 126}, "__prepare names a model, and is too long"),
        ({"spec_file": Path("spec.yml")}, "--spec-file spec.yml: no such file"),
        ({"handler": Path("functions")}, "--handler functions: no such file"),
        ({"handler": Path("spec.yaml")}, "--handler spec.yaml: expected a Python file (.py)"),
        ({"handler": None}, "and the workflow has no handler file with a function of that name"),
        ({"extra_files": ("none.txt",)}, "--extra-files none.txt: no such file or folder"),
        ({"export_path": Path("spec.yaml")}, "--export-path spec.yaml: not a folder"),
    ],
)
def test_what_can_not_be_packed(change: dict[str, object], said: str) -> None:
    given = {"workflow_name": "wf", "spec_file": Path("spec.yaml"), "handler": Path("functions.py"), **change}
    with pytest.raises(ArchiveError) as caught:
        pack(WorkflowOptions(**given))  # type: ignore[arg-type]
    assert said in str(caught.value)
    assert not list(Path().glob("*.war"))


def test_a_manifest() -> None:
    manifest = parse(b'{"workflow": {"workflowName": "wf", "specFile": "a.yaml"}, "archiverVersion": "1"}')
    assert (manifest.name, manifest.handler, manifest.archiver_version) == ("wf", None, "1")
    assert parse(dump(manifest)) == manifest
    for text, said in (
        (b"{}", "manifest /workflow: expected an object, found nothing"),
        (b'{"workflow": {}}', "manifest /workflow/specFile: expected a string that is not empty"),
        (b'{"workflow": {"specFile": "../x"}}', "manifest /workflow/specFile: the name '../x' has a component"),
        (b'{"workflow": {"specFile": "x", "handler": "y"}}', "manifest /workflow/handler: 'y' is not a Python file"),
        (b"[", "manifest: not JSON"),
    ):
        with pytest.raises(InvalidManifest) as caught:
            parse(text)
        assert str(caught.value).startswith(said)
