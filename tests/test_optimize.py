"""`pdserver optimize`: what each engine does with an archive's model, shown and kept in the archive."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from pdarchiver import archive
from pdarchiver.pack import PackOptions, pack
from tests.handlers.engine_files import both as both


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pdserver", "optimize", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_the_engines_figures_are_shown_and_kept(both: Path, tmp_path: Path) -> None:
    """The archive has the same files as before."""
    model = both / "digits.pdmodel"
    path = pack(PackOptions(model_name="digits", version="1.0", serialized_file=model, export_path=tmp_path))
    before = archive.verify(path).files
    done = run(str(path), "--batch-size", "4")
    assert done.returncode == 0, done.stderr
    first, head, *lines = done.stdout.splitlines()
    assert first == "made nothing for other engines: OpenVINO reads digits.pdmodel as it is"
    assert head.split() == ["batch", "size", "1", "4"]
    assert [line.split()[0] for line in lines] == ["paddle", "openvino"]
    found = archive.verify(path)
    assert found.files == before
    assert found.measured is not None
    assert found.measured["versions"].keys() >= {"pdserver", "openvino"}
    assert found.measured["processor"]
    assert found.measured["batchSizes"] == [1, 4]
    assert [each["engine"] for each in found.measured["engines"]] == ["paddle", "openvino"]
    assert all(len(each["milliseconds"]) == 2 and each["difference"] < 1e-4 for each in found.measured["engines"])


def test_what_is_no_archive_is_told(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no archive")
    done = run(str(tmp_path / "notes.txt"))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "neither a zip (.pdar, .mar) nor a tar.gz" in done.stderr
    assert run("a.pdar", "--batch-size", "0").returncode == 2
