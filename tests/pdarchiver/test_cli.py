"""The command as users run it: the installed script, in a process of its own."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pdarchiver import inspect, verify
from tests.running import eventually

SCRIPT = Path(sys.executable).with_name("pd-model-archiver")
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command in an empty folder, which is the test's working directory as well."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)

    def run(*args: object, status: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run([SCRIPT, *map(str, args)], capture_output=True, text=True)
        assert done.returncode == status, done.stderr
        assert "Traceback" not in done.stderr
        return done

    return run


def test_each_flag(run: Run, linear: Path) -> None:
    Path("handler.py").write_text("def run(data, context): ...\n")
    Path("net.py").write_text("class Net: ...\n")
    Path("requirements.txt").write_text("numpy\n")
    Path("m.yaml").write_text("inputs: {x: features}\noutputs: {fetch_name_0: price}\n")
    for name in ("one.txt", "two.txt", "three.txt", "data/four.txt"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(name)
    weights = shutil.copy(linear.with_suffix(".pdiparams"), "trained.pdiparams")
    done = run(
        *("--model-name", "price", "--version", "2.0", "--handler", "handler:run", "--serialized-file", linear),
        *("--params-file", weights, "--model-file", "net.py", "--extra-files", "one.txt,two.txt,data"),
        *("--extra-files", "three.txt", "--runtime", "python3", "--export-path", "store", "--archive-format", "tgz"),
        *("--requirements-file", "requirements.txt", "--config-file", "m.yaml"),
    )
    assert done.stderr == ""
    size_bytes = Path("store/price.tar.gz").stat().st_size
    assert done.stdout == (
        f"wrote store/price.tar.gz ({size_bytes / 1000:.1f} kB): features float32[-1, 13] -> price float32[-1, 1]\n"
    )
    manifest = verify(Path("store/price.tar.gz"))
    assert (manifest.model_name, manifest.model_version, manifest.handler) == ("price", "2.0", "handler.py:run")
    assert (manifest.serialized_file, manifest.params_file) == ("linear.json", "trained.pdiparams")
    assert (manifest.model_file, manifest.requirements_file) == ("net.py", "requirements.txt")
    assert (manifest.config_file, manifest.runtime, manifest.created_on) == ("m.yaml", "python3", None)
    assert {"one.txt", "two.txt", "three.txt", "data/four.txt"} < manifest.files.keys()


def test_short_flags_and_defaults(run: Run) -> None:
    Path("r.txt").touch()
    Path("c.yaml").touch()
    done = run("--model-name", "m", "-v", "1", "-r", "r.txt", "-c", "c.yaml")
    assert done.stdout.endswith("no model, only a handler\n")
    manifest = verify(Path("m.pdar"))
    assert (manifest.handler, manifest.runtime) == ("base_handler", "python")
    assert (manifest.requirements_file, manifest.config_file) == ("r.txt", "c.yaml")
    assert "exists already; replace it with --force" in run("--model-name", "m", "-v", "2", status=1).stderr
    run("--model-name", "m", "-v", "2", "-f")
    run("--model-name", "m", "-v", "3", "--force")
    assert verify(Path("m.pdar")).model_version == "3"


@pytest.mark.parametrize(
    ("archive_format", "name", "kind"),
    [
        ("default", "m.pdar", "zip"),
        ("zip-store", "m.pdar", "zip"),
        ("tgz", "m.tar.gz", "tar.gz"),
        ("no-archive", "m", "folder"),
    ],
)
def test_formats(run: Run, archive_format: str, name: str, kind: str) -> None:
    Path("text.txt").write_text("again and " * 1000)
    run("--model-name", "m", "-v", "1", "--extra-files", "text.txt", "--archive-format", archive_format)
    assert inspect(Path(name)).format == kind
    assert run("verify", name).stdout == f"{name}: in order, 1 files as they were packed\n"


def test_wrong_use(run: Run) -> None:
    assert "required: --model-name, -v/--version" in run(status=2).stderr
    assert "--colour: unknown flag" in run("--model-name", "m", "-v", "1", "--colour", status=2).stderr
    assert "--model-nam: unknown flag, did you mean --model-name?" in run("--model-nam", "m", status=2).stderr
    for flag in ("-v", "--version"):
        asked = run(flag, status=2).stderr
        assert "--version: expected the model's version" in asked
        assert "pdserver --version says this tool's own" in asked
    assert "invalid choice: 'tar'" in run("--model-name", "m", "-v", "1", "--archive-format", "tar", status=2).stderr
    assert "the following arguments are required: archive" in run("verify", status=2).stderr
    assert (
        "--model: unknown flag, did you mean --model-"
        in run("--model", "m", "-v", "1", "--model-name", "m", status=2).stderr
    )


def test_help(run: Run) -> None:
    text = run("--help").stdout
    for flag in (
        *("--model-name", "--version", "--handler", "--serialized-file", "--params-file", "--model-file", "--runtime"),
        *("--extra-files", "--export-path", "--archive-format", "--force", "--requirements-file", "--config-file"),
        *("inspect", "verify", "examples:"),
    ):
        assert flag in text
    assert "--json" in run("inspect", "--help").stdout
    assert "archive" in run("verify", "--help").stdout


def test_what_is_wrong_with_the_model_is_one_line_on_stderr(run: Run) -> None:
    done = run("--model-name", "m", "-v", "1", "--serialized-file", "gone.json", status=1)
    assert done.stderr == "pd-model-archiver: error: gone.json: no such file\n"
    assert done.stdout == ""
    assert list(Path().iterdir()) == []


def test_errors_of_the_disk(run: Run) -> None:
    Path("file").touch()
    assert "Not a directory" in run("--model-name", "m", "-v", "1", "--export-path", "file/x", status=1).stderr
    assert run("verify", "gone.pdar", status=1).stderr.endswith("gone.pdar: No such file or directory\n")


def test_source_date_epoch(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    run("--model-name", "m", "-v", "1")
    assert verify(Path("m.pdar")).created_on == "02/01/1970 00:00:00"
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    assert "must be a number of seconds" in run("--model-name", "n", "-v", "1", status=1).stderr


def test_inspect_in_a_pipe(run: Run, linear: Path) -> None:
    Path("m.yaml").write_text("outputs: {fetch_name_0: price}\n")
    run("--model-name", "m", "-v", "1", "--serialized-file", linear, "-c", "m.yaml")
    lines = run("inspect", "m.pdar").stdout.splitlines()
    assert lines[1:5] == [
        "model     m  version 1",
        "handler   base_handler",
        "input     x  float32[-1, 13]",
        "output    price  float32[-1, 1]  fetch_name_0",
    ]
    assert [line.split()[-1] for line in lines[5:]] == [
        *("linear.json", "linear.pdiparams", "m.yaml", "PDAR-INF/MANIFEST.json")
    ]
    shown = json.loads(run("inspect", "m.pdar", "--json").stdout)
    assert (shown["format"], shown["sizeBytes"]) == ("zip", Path("m.pdar").stat().st_size)
    assert shown["manifest"]["signature"]["outputs"][0]["name"] == "price"
    weights = shown["entries"][1]
    assert (weights["path"], weights["sizeBytes"]) == ("linear.pdiparams", 106)
    assert 0 < weights["packedBytes"] <= 106


def test_inspect_on_a_terminal(run: Run, linear: Path) -> None:
    Path("assets/[bold]").mkdir(parents=True)
    Path("assets/[bold]/labels.txt").touch()
    run("--model-name", "m", "-v", "1", "--serialized-file", linear, "--extra-files", "assets")
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    subprocess.run([SCRIPT, "inspect", "m.pdar"], stdout=theirs, check=True, env=environment)
    os.close(theirs)
    shown = os.read(ours, 100_000).decode()
    os.close(ours)
    for text in ("x", "float32[-1, 13]", "fetch_name_0", "[bold]/", "labels.txt", "MANIFEST.json", "└──"):
        assert text in shown


def test_inspect_of_an_archive_of_torchserve(run: Run) -> None:
    Path("MAR-INF").mkdir()
    Path("MAR-INF/MANIFEST.json").write_text('{"model": {"modelName": "old", "handler": "image_classifier"}}')
    subprocess.run(["zip", "-qr", "old.mar", "MAR-INF"], check=True) if shutil.which("zip") else shutil.move(
        shutil.make_archive("old", "zip", ".", "MAR-INF"), "old.mar"
    )
    text = run("inspect", "old.mar").stdout
    assert "model     old  version 1.0" in text
    assert "checksums none in the manifest" in text
    assert "no checksums in its manifest" in run("verify", "old.mar").stdout


def test_verify_tells_what_changed(run: Run) -> None:
    Path("a.txt").write_text("a")
    run("--model-name", "m", "-v", "1", "--extra-files", "a.txt", "--archive-format", "no-archive")
    Path("m/a.txt").write_text("b")
    assert "differ from their checksum in the manifest: a.txt" in run("verify", "m", status=1).stderr


def test_a_reader_that_goes_away(run: Run) -> None:
    for number in range(3000):
        Path("d", str(number)).parent.mkdir(exist_ok=True)
        Path("d", str(number)).touch()
    run("--model-name", "m", "-v", "1", "--extra-files", "d")
    command = f"'{SCRIPT}' inspect --json m.pdar | head -c 1"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("{", "")


# Interrupted runs.


@contextmanager
def packing() -> Iterator[subprocess.Popen[bytes]]:
    """A run that is in the middle of writing m.pdar; the file it packs is large but takes no room."""
    with Path("large.bin").open("wb") as file:
        file.truncate(8 * 1024**3)
    command = [str(SCRIPT), "--model-name", "m", "-v", "1", "--extra-files", "large.bin", "-f"]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        try:

            def has_begun() -> bool:
                assert process.poll() is None
                return any(path.stat().st_size for path in Path().glob(".m.pdar.*.part"))

            eventually(has_begun)
            yield process
        finally:
            process.kill()


def listed() -> list[str]:
    return sorted(path.name for path in Path().iterdir() if path.name != "large.bin")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_leaves_nothing(run: Run, number: signal.Signals, status: int) -> None:
    with packing() as process:
        process.send_signal(number)
        _, errors = process.communicate()
    assert process.returncode == status
    assert b"Traceback" not in errors
    assert listed() == []


def test_an_interrupted_run_leaves_the_old_archive(run: Run) -> None:
    run("--model-name", "m", "-v", "old")
    with packing() as process:
        process.terminate()
        process.communicate()
    assert listed() == ["m.pdar"]
    assert verify(Path("m.pdar")).model_version == "old"


def test_the_next_run_clears_up_after_a_killed_one(run: Run) -> None:
    with packing() as process:
        process.kill()
        process.communicate()
    (leftover,) = listed()
    assert leftover.startswith(".m.pdar.")
    run("--model-name", "m2", "-v", "1")
    assert leftover in listed()
    run("--model-name", "m", "-v", "1")
    assert listed() == ["m.pdar", "m2.pdar"]


def test_a_run_does_not_clear_up_after_a_living_one(run: Run) -> None:
    with packing() as process:
        (stage,) = listed()
        run("--model-name", "m", "-v", "1")
        assert listed() == [stage, "m.pdar"]
        process.kill()
        process.communicate()
