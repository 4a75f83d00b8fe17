"""From a handler's name to its entry point."""

from __future__ import annotations

from pathlib import Path

import pytest

from pdserver.configuration.model import ModelSpec
from pdserver.errors import ArchiveUnusable
from pdserver.handlers.context import Context
from pdserver.handlers.runtime import loader
from tests.handlers.conftest import Load
from tests.handlers.requests import answer, json, refusal

CLASS = "class One:\n    def handle(self, data, context): return ['class'] * len(data)\n"
FUNCTION = "def handle(data, context): return None if data is None else ['handle'] * len(data)\n"


@pytest.fixture
def context(tmp_path: Path) -> Context:
    spec = ModelSpec(
        name="m", version="1", url="m", directory=str(tmp_path), handler="", manifest={}, model_config={},
        min_workers=1, max_workers=1,
    )  # fmt: skip
    return Context(spec, None)


@pytest.mark.parametrize(
    ("source", "suffix", "expected"),
    [
        (CLASS, ".py", "class"),
        (CLASS, "", "class"),
        (CLASS + FUNCTION, ".py", "handle"),
        (FUNCTION + FUNCTION.replace("handle", "other"), ".py:other", "other"),
        (FUNCTION + FUNCTION.replace("handle", "other"), ":other", "other"),
        (FUNCTION + CLASS + CLASS.replace("One", "Two").replace("'class'", "'other'"), ".py:One", "class"),
        ("import logging\nclass Helper: pass\n" + CLASS, "", "class"),
        ("class Base:\n    def handle(self, d, c): return ['class']\nclass Mine(Base): pass\n", "", "class"),
        ("from abc import ABC\nfrom pdserver.handlers.image_classifier import ImageClassifier\n" + CLASS, "", "class"),
        ("class S:\n    def handle(self, d, c): return d and ['bound']\nhandle = S().handle\n", "", "bound"),
    ],
)
def test_entry_points(tmp_path: Path, context: Context, source: str, suffix: str, expected: str) -> None:
    name = f"entry_{abs(hash((source, suffix)))}"
    (tmp_path / f"{name}.py").write_text(source)
    entry = loader.load(name + suffix, tmp_path)
    entry.initialize(context)
    assert entry.handle([{}], context) == [expected]


def test_a_function_is_called_without_data_at_load(load: Load) -> None:
    source = "calls = []\ndef handle(data, context):\n    calls.append(data)\n    return data and [calls[0] is None]"
    assert answer(load(None, source=source).run([json(1)])[0]) is True


@pytest.mark.parametrize(
    "source",
    [
        "async def start(): pass\n"
        "async def handle(data, context):\n"
        "    if data is None: await start()\n"
        "    else: return await both(data)\n",
        "class Both:\n"
        "    async def initialize(self, context): await asyncio.sleep(0)\n"
        "    async def handle(self, data, context): return await both(data)\n",
    ],
    ids=["function", "class"],
)
def test_async_handlers_share_one_event_loop(load: Load, source: str) -> None:
    helper = (
        "import asyncio\n"
        "loops = []\n"
        "async def both(data):\n"
        "    loops.append(asyncio.get_running_loop())\n"
        "    started = asyncio.Barrier(2) if hasattr(asyncio, 'Barrier') else None\n"
        "    async def one(row):\n"
        "        if started and len(data) == 2: await started.wait()\n"
        "        return [row['body'], len(set(loops))]\n"
        "    return await asyncio.gather(*map(one, data))\n"
    )
    service = load(None, source=helper + source)
    assert [answer(outcome) for outcome in service.run([json(1), json(2)])] == [[1, 1], [2, 1]]
    assert [answer(outcome) for outcome in service.run([json(3)])] == [[3, 1]]


def test_what_an_async_handler_raises(load: Load) -> None:
    (failed,) = load(None, source="async def handle(data, context): return data and [1 / 0]").run([json(1)])
    assert refusal(failed) == "handler: ZeroDivisionError: division by zero"
    (odd,) = load(None, source="async def handle(data, context): yield 1").run([json(1)])
    assert refusal(odd).startswith("handler: handler returned async_generator, not a list of answers")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("image_clasifier", "no image_clasifier.py in the archive; did you mean image_classifier?"),
        ("xyz", r"no xyz.py in the archive \(built in are base_handler, image_classifier, "),
        ("../outside.py", "is outside the archive"),
        ("a\0b", r"a\\x00b\": no file can have this name"),
        ("a" * 300, "no file can have this name"),
        ("none.py", r"expected a function handle\(data, context\), or one class with a method handle; found neither"),
        ("two.py", "found One, Two"),
        ("two.py:handel", "has no function or class handel; did you mean handler?"),
        ("two.py:Helper", "class Helper has no method handle"),
    ],
)
def test_no_entry_point(tmp_path: Path, name: str, message: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "outside.py").write_text(FUNCTION)
    (folder / "none.py").write_text("from pdserver.handlers.base import BaseHandler\nX = 1\n")
    (folder / "two.py").write_text(CLASS + CLASS.replace("One", "Two") + "def handler(): pass\nclass Helper: pass")
    with pytest.raises(ArchiveUnusable, match=message):
        loader.load(name, folder)


def test_a_file_called_like_a_module_is_itself(tmp_path: Path, context: Context) -> None:
    import json as standard

    (tmp_path / "json.py").write_text(FUNCTION)
    assert loader.load("json.py", tmp_path).handle([{}], context) == ["handle"]
    import json as still

    assert still is standard
