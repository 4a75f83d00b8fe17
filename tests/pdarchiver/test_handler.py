"""Which handler is meant, and whether a server would find something to call in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pdarchiver.errors import PackingError
from pdarchiver.handler import BUILT_IN_HANDLERS, Handler, resolve


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", BUILT_IN_HANDLERS)
def test_built_in(name: str) -> None:
    assert resolve(name) == Handler(name)


@pytest.mark.parametrize(
    ("wanted", "name"),
    [
        ("src/my.py", "my.py"),
        ("src/my", "my.py"),
        ("src/my.py:run", "my.py:run"),
        ("src/my:run", "my.py:run"),
        ("./src/my:run", "my.py:run"),
    ],
)
def test_forms_of_a_path(wanted: str, name: str) -> None:
    Path("src").mkdir()
    Path("src/my.py").write_text("def handle(data, context): ...\ndef run(data, context): ...\n")
    found = resolve(wanted)
    assert (found.name, found.file) == (name, Path("src/my.py"))


@pytest.mark.parametrize(
    "source",
    [
        "def handle(data, context): ...",
        "class Mine:\n    def handle(self, data, context): ...",
        "from pdserver.handlers.base import BaseHandler\nclass Mine(BaseHandler): ...",
        "import paddle\nclass Net(paddle.nn.Layer): ...\nclass Mine(Base): ...",
        "class Base:\n    def handle(self, d, c): ...\nclass Mine(Base):\n    def handle(self, d, c): ...",
        "class Base:\n    def handle(self, d, c): ...\nclass Mine(Base): ...",
        "class Net: ...\nclass Mine:\n    def handle(self, d, c): ...\nclass Other(Net): ...",
        "handle = lambda data, context: data",
        "handle: object = print",
        "from elsewhere import answer as handle",
        "from elsewhere import *",
        "try:\n    from fast import handle\nexcept ImportError:\n    from slow import handle",
        "if True:\n    pass\nelse:\n    def handle(d, c): ...",
    ],
)
def test_entry_points_that_are_found(source: str) -> None:
    Path("h.py").write_text(source)
    assert resolve("h.py").name == "h.py"


@pytest.mark.parametrize(
    ("wanted", "source", "match"),
    [
        ("h.py", "", "nothing to call: define a class with handle"),
        ("h.py", "def run(data, context): ...", "nothing to call"),
        ("h.py", "class Mine:\n    def run(self): ...", "nothing to call"),
        ("h.py", "def outer():\n    def handle(d, c): ...", "nothing to call"),
        ("h.py", "class A:\n  def handle(s): ...\nclass B:\n  def handle(s): ...", r"several classes.* \(A, B\)"),
        (
            "h.py:rum",
            "def run(data, context): ...",
            r"no function or class 'rum' at its top level \(did you mean 'run'\?\)",
        ),
        ("h.py:A", "class A:\n  def run(s): ...", r"h\.py:1: class A has no method handle\(self, data, context\)"),
        ("h.py", "def handle(:\n", r"h\.py:1: not valid Python"),
        ("h.py", "x = 1\n\tdef handle(): ...", r"h\.py:2: not valid Python"),
        ("h.py", "\0", "not valid Python"),
        ("h.py:a-b", "", "'a-b' after the colon is not the name of a function"),
        ("h.py:", "", "'' after the colon"),
        ("image_clasifier", "", r"did you mean 'image_classifier'\?"),
        ("gone.py", "", r"neither a file gone\.py nor a built-in handler"),
        ("image_classifier:run", "", r"neither a file image_classifier\.py"),
    ],
)
def test_refusals(wanted: str, source: str, match: str) -> None:
    Path("h.py").write_text(source)
    with pytest.raises(PackingError, match=match):
        resolve(wanted)
