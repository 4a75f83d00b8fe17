"""Every command of the documentation, run as a reader would: page by page, in order, in a copy of the repository.

A page shows its commands in ```console blocks, `$ ` before each and `> ` before its further lines, and below a command
what it prints: "…" stands for anything within a line, a line of "…" alone for any lines. A command under which nothing
is shown may print what it likes. One whose page says ```console fails must fail, any other must not.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.running import BIN
from tests.shell import Shell
from tests.test_docs import PAGES, ROOT, name_of

BLOCK = re.compile(r"^( *)```(\S*)([^\n]*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
COMMANDS = re.compile(r"^\s*(\$ |curl |pdserver |pd-model-archiver |pd-workflow-archiver |pip |make )", re.MULTILINE)
NOT_RUN = {
    "make demo": "tests/examples/test_demo.py runs it",
    "make test": "it is what runs this",
    "make build": "tests/test_wheel.py does it",
    "python3 -m venv .venv": "the tests' own environment takes its place",
    ". .venv/bin/activate": "likewise",
    "pip install '.[cpu]'": "likewise",
    "pip install '.[client]'": "likewise",
    "pip install '.[encryption]'": "likewise",
    "pip install torch==2.13.0 onnx==1.16.2 x2paddle==1.6.0 paddlepaddle==3.3.1 six requests": (
        "tests/test_from_torch.py does it"
    ),
    "pip install '.[cpu]' scikit-learn": "likewise",
    'pip install "$(ls dist/*.whl)[cpu]"': "tests/test_wheel.py does it",
}
OWN_TEST = {
    "docs/archives.md": "tests/pdarchiver/test_archives_page.py, which has the models that the page packs",
    "examples/ocr/README.md": "tests/examples/test_ocr.py, which goes on with what the page has made",
}


@dataclass
class Step:
    command: str
    fails: bool
    shown: list[str] = field(default_factory=list)


def steps(text: str) -> list[Step]:
    found: list[Step] = []
    for indent, language, info, block in BLOCK.findall(text):
        if language != "console":
            continue
        for line in (line.removeprefix(indent) for line in block.splitlines()):
            if line.startswith("$ "):
                found.append(Step(line[2:], "fails" in info))
            elif line.startswith("> ") or line == ">":
                found[-1].command += "\n" + line[2:]
            else:
                found[-1].shown.append(line)
    return found


def pattern(shown: list[str]) -> str:
    """The regular expression of what a page shows."""
    lines = [r"(?:.*\n)*?" if line == "…" else ".*".join(map(re.escape, line.split("…"))) + r"\n" for line in shown]
    return "".join(lines)


def check(shell: Shell, step: Step) -> None:
    done = shell.run(step.command)
    said = f"$ {step.command}\n{done.stdout}[status {done.returncode}]"
    assert (done.returncode != 0) == step.fails, said
    if step.shown:
        printed = done.stdout if done.stdout.endswith("\n") else done.stdout + "\n"
        assert re.fullmatch(pattern(step.shown), printed), f"{said}\nbut the page shows\n" + "\n".join(step.shown)


@pytest.fixture(scope="module")
def readers_own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what page_models.py writes."""
    folder = tmp_path_factory.mktemp("reader")
    command = [sys.executable, "-W", "ignore", "-m", "tests.page_models", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return folder


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    """In a folder with what the repository has."""
    for name in ("examples", "model_store"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "config.properties", tmp_path)
    shell = Shell(tmp_path, BIN)
    yield shell
    shell.close()


def pages_to_run() -> list[Path]:
    """The pages with commands. One that shows the same as an earlier page, such as a translation, need not be run."""
    found: dict[str, Path] = {}
    for page in PAGES:
        if (shown := steps(page.read_text())) and name_of(page) not in OWN_TEST:
            found.setdefault(repr(shown), page)
    return list(found.values())


@pytest.mark.parametrize("page", pages_to_run(), ids=name_of)
def test_the_page_is_true(page: Path, shell: Shell, readers_own: Path) -> None:
    if not page.name.startswith("README"):  # a newcomer has nothing yet
        shutil.copytree(readers_own, shell.folder, dirs_exist_ok=True)
    run = [step for step in steps(page.read_text()) if step.command not in NOT_RUN]
    assert run
    for step in run:
        check(shell, step)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_no_command_hides_from_being_run(page: Path) -> None:
    for _, language, _, block in BLOCK.findall(page.read_text()):
        assert language, f"a block without a language:\n{block}"
        assert language == "console" or not COMMANDS.search(block), f"not run unless it is ```console:\n{block}"


def test_what_is_not_run_is_in_the_documentation() -> None:
    shown = {step.command for page in PAGES for step in steps(page.read_text())}
    assert set(NOT_RUN) <= shown


@pytest.mark.parametrize(
    ("page", "problem"),
    [
        ("$ echo one two\none …", ""),
        ("$ printf 'a\\nb\\nc\\n'\na\n…\nc", ""),
        ("$ echo one; echo two\none", "shows"),
        ("$ echo two\none", "shows"),
        ("$ false", "status 1"),
    ],
)
def test_an_untrue_page_is_noticed(page: str, problem: str, tmp_path: Path) -> None:
    [step] = steps(f"```console\n{page}\n```\n")
    if problem:
        with pytest.raises(AssertionError, match=problem):
            check(Shell(tmp_path, BIN), step)
    else:
        check(Shell(tmp_path, BIN), step)
