"""The files that name a model's classes."""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

from pdarchiver import texts
from pdarchiver.errors import InvalidText

INDEX_TO_NAME, LABEL_LIST = "index_to_name.json", "label_list.txt"
"""TorchServe's name, and the name of Paddle's tools."""
LABEL_FILES = (INDEX_TO_NAME, LABEL_LIST)
"""The first that exists is read."""
_SHAPES = '{"0": "name"}, {"0": ["id", "name"]} or {"object_type_names": ["name"]}'
_NAMES = "object_type_names"
_BEGINS_WITH_NUMBERS = re.compile(r"0[ \t]+\S")
_NUMBERED = re.compile(r"([0-9]{1,9})[ \t]+(.+)")
_MOST_DIGITS = 9
_MOST_BYTES = 8 << 20


def read(data: bytes, title: str) -> dict[int, str]:
    """The names by class in a file that is called `title`, with or without its folder.

    LABEL_LIST has a name on each line, the first for class 0, or the class before each name, as PaddleClas writes it.
    Another file is JSON of one of TorchServe's shapes. Raises InvalidText for anything else.
    """
    if len(data) > _MOST_BYTES:
        raise InvalidText(title, 1, f"larger than {_MOST_BYTES >> 20} MiB: name each class once")
    text = _decoded(data, title)
    return _from_lines(text, title) if title.endswith(LABEL_LIST) else _from_json(text, title)


def check(data: bytes, title: str, classes: int | None) -> None:
    """Raises InvalidText for what `read` refuses, and for a class that a model with `classes` classes does not have."""
    names = read(data, title)
    beyond = min((index for index in names if classes is not None and index >= classes), default=None)
    if beyond is not None:
        text = _decoded(data, title)
        raise InvalidText(
            title,
            _line_of(text, names[beyond], 1),
            f"class {beyond} is {names[beyond]!r}, but the model has {classes} classes, counted from 0: "
            f"name {classes}, each in its place",
        )


def _decoded(data: bytes, title: str) -> str:
    """The text, with "\n" at the end of each line. Raises InvalidText."""
    return re.sub("\r\n?", "\n", texts.decode(data, title))


def _from_lines(text: str, title: str) -> dict[int, str]:
    lines = [line.strip() for line in text.rstrip().split("\n")]
    numbered = _BEGINS_WITH_NUMBERS.match(lines[0])
    names: dict[int, str] = {}
    for at, line in enumerate(lines):
        if not line:
            raise InvalidText(
                title, at + 1, f"empty: expected the name of class {at}; without it, all names below are one class off"
            )
        if not numbered:
            names[at] = line
            continue
        found = _NUMBERED.fullmatch(line)
        if found is None:
            raise InvalidText(title, at + 1, f"expected a class and its name, as {lines[0]!r} is, got {line[:100]!r}")
        if int(found[1]) in names:
            raise InvalidText(title, at + 1, f"class {found[1]} has a name already: give each class one line")
        names[int(found[1])] = found[2]
    return names


def _from_json(text: str, title: str) -> dict[int, str]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        content = dict(pairs)
        for key in [key for key, _ in pairs] if len(content) < len(pairs) else ():
            if sum(key == other for other, _ in pairs) > 1:
                raise InvalidText(title, _line_of(text, key, 2), f"{key!r} is given twice: give each class one name")
        return content

    try:
        content = json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise InvalidText(title, error.lineno, f"not JSON: {error.msg}; expected {_SHAPES}") from None
    except (RecursionError, ValueError):  # too deep, or a number of too many digits
        raise InvalidText(title, 1, f"expected {_SHAPES}") from None
    if not isinstance(content, dict):
        raise InvalidText(title, 1, f"expected {_SHAPES}")
    if isinstance(listed := content.get(_NAMES), list):
        return {index: _name(value, _NAMES, text, title) for index, value in enumerate(listed)}
    names: dict[int, str] = {}
    for key, value in content.items():
        index = _class(key, text, title)
        if index in names:
            _refuse(f"class {index} has a name already: give each class one name", key, text, title)
        names[index] = _name(value, key, text, title)
    return names


def _class(key: str, text: str, title: str) -> int:
    if key.isascii() and key.isdigit() and len(key) <= _MOST_DIGITS:
        return int(key)
    _refuse(f"{key[:100]!r} is not a class's number", key, text, title)


def _name(value: Any, key: str, text: str, title: str) -> str:
    name = value[-1] if isinstance(value, list) and value else value
    if not isinstance(name, str):
        _refuse(f"{str(name)[:100]} is not a name", key, text, title)
    if not name.isascii() and any("\ud800" <= letter <= "\udfff" for letter in name):
        _refuse(f"{name[:100]!a} has half of a surrogate pair", key, text, title)
    return name


def _refuse(problem: str, key: str, text: str, title: str) -> NoReturn:
    raise InvalidText(title, _line_of(text, key, 1), f"{problem}: expected {_SHAPES}")


def _line_of(text: str, word: str, which: int) -> int:
    """The line of the first or second occurrence of `word`, or 1 if it is spelled differently."""
    at = -1
    for _ in range(which):
        at = text.find(word, at + 1)
    return text.count("\n", 0, max(at, 0)) + 1
