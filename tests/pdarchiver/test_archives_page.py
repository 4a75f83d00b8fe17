"""The commands in docs/archives.md do what the page shows."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "archives.md").read_text()
SIZE = re.compile(r"\b\d+(\.\d)? k?B\b")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def steps() -> list[tuple[str, str]]:
    """Each command of the page with the output shown below it."""
    found = []
    for block in blocks("console"):
        for step in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command = re.match(r"(.*\\\n)*.*\n", step)
            assert command is not None
            found.append((command.group().replace("\n> ", "\n"), step[command.end() :]))
    return found


def without_sizes(text: str) -> str:
    return re.sub(r" +", " ", SIZE.sub("SIZE", text))


def test_the_page(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    Path("exported").mkdir()
    for model, name in (("linear", "price"), ("convolution", "cats")):
        for ending in (".json", ".pdiparams"):
            shutil.copy(models / "pir" / (model + ending), f"exported/{name}{ending}")
    Path("cats_handler.py").write_text("def handle(data, context): ...\n")
    Path("index_to_name.json").write_text("{}")
    Path("requirements.txt").touch()
    Path("assets").mkdir()
    Path("price.yaml").write_text(blocks("yaml")[0])
    assert len(steps()) == 6
    for command, shown in steps():
        done = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, ""), command
        assert without_sizes(done.stdout) == without_sizes(shown)
    program = blocks("python")[0]
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": root}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert done.stdout == "x float32[-1, 13] -> fetch_name_0 float32[-1, 1]\n"
