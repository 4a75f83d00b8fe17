"""`pdserver optimize`: what each engine does with an archive's model, shown and kept in the archive."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from pdarchiver import archive
from pdarchiver.pack import PackOptions, pack
from pdserver.system.devices import cpu_flags
from tests.handlers.engine_files import INPUTS
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
    first, head, *lines, last = done.stdout.splitlines()
    assert first == "made nothing for other engines: OpenVINO reads digits.pdmodel as it is"
    assert head.split() == ["batch", "size", "1", "4", "difference"]
    assert [line.split()[0] for line in lines] == ["paddle", "openvino"]
    assert last.startswith("tried with inputs that were made up")
    found = archive.verify(path)
    assert found.files == before
    assert found.measured is not None
    assert found.measured["versions"].keys() >= {"pdserver", "openvino"}
    assert "\n" not in found.measured["processor"]
    assert (found.measured["inputs"], found.measured["batchSizes"]) == ("made", [1, 4])
    assert [each["engine"] for each in found.measured["engines"]] == ["paddle", "openvino"]
    assert all(len(each["milliseconds"]) == 2 and each["difference"] < 1e-4 for each in found.measured["engines"])


def test_the_archives_samples_and_batch_size_are_taken(both: Path, tmp_path: Path) -> None:
    """And the precisions that its config file allows are tried."""
    np.save(tmp_path / "images.npy", INPUTS["digits"]["image"])
    config = tmp_path / "digits.yaml"
    config.write_text("batchSize: 3\npredictor: {precision: auto}\nsamples: [{image: images.npy}]\n")
    path = pack(
        PackOptions(
            model_name="digits",
            version="1.0",
            serialized_file=both / "digits.pdmodel",
            config_file=config,
            export_path=tmp_path,
        )
    )
    done = run(str(path))
    assert done.returncode == 0, done.stderr
    assert "tried with the archive's samples" in done.stdout
    found = archive.verify(path).measured
    assert found is not None
    assert (found["inputs"], found["batchSizes"]) == ("samples", [1, 3])
    engines = {each["engine"] for each in found["engines"]}
    assert engines >= {"paddle", "openvino"}
    assert ("openvino (bfloat16)" in engines) == bool(cpu_flags() & {"avx512_bf16", "amx_bf16"})


def test_what_is_no_archive_is_told(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no archive")
    done = run(str(tmp_path / "notes.txt"))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "neither a zip (.pdar, .mar) nor a tar.gz" in done.stderr
    assert run("a.pdar", "--batch-size", "0").returncode == 2
