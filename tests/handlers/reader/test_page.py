"""docs/reader.md: its handler serves, and its tables have every operator with its arguments."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from pdserver.handlers import reader
from pdserver.handlers.reader import video
from tests.handlers.conftest import Load
from tests.handlers.pictures import plain
from tests.handlers.requests import answer, body, refusal

PAGE = (Path(__file__).parents[3] / "docs" / "reader.md").read_text()
ROWS = {
    name: [argument.partition("=")[0] for argument in re.sub(r"\(.*?\)| ", "", arguments).split(",") if argument]
    for line in PAGE.splitlines()
    if line.startswith("| `")
    for name, arguments in re.findall(r"`([\w.]+)\((.*?)\)`", line.partition(" | ")[0])
}
"""The arguments of each operator."""


def test_the_tables_have_every_operator() -> None:
    assert set(ROWS) == {*reader.__all__, "video.CenterCrop"}


def test_the_tables_have_every_argument() -> None:
    for name, arguments in ROWS.items():
        operator = video.CenterCrop if name == "video.CenterCrop" else getattr(reader, name)
        assert arguments == list(inspect.signature(operator).parameters), name


def test_the_handler(load: Load) -> None:
    (source,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    service = load("pir/colours.json", source=source, config={"inputs": {"image": "image"}})
    red, narrow, text = service.run([body(plain(255, 0, 0)), body(plain(0, 0, 255, 9, 900)), body(b"a cat")])
    assert answer(red) == {"class": 0}
    assert answer(narrow) == {"class": 2}
    assert refusal(text).startswith("invalid: expected a JPEG, PNG, WebP or BMP image, got 5 bytes")
