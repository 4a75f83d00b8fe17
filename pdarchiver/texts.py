"""Reads text files of models, written by people or tools."""

from __future__ import annotations

import codecs
from pathlib import Path

import yaml

from pdarchiver.errors import InvalidText

_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def decode(data: bytes, title: str) -> str:
    """The text in UTF-8, with or without a byte order mark. Raises InvalidText for other encodings."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        encoding = "UTF-16" if data.startswith(_UTF_16) else _eight_bits(data)
        line = data[: error.start].count(b"\n") + 1
        file = title.rpartition("/")[2]
        found = (
            f", but {encoding}: save it as UTF-8, such as by iconv -f {encoding} -t UTF-8 {file}" if encoding else ""
        )
        raise InvalidText(title, line, f"not UTF-8 text{found or ': save it as UTF-8'}") from None


def check_yaml(path: Path) -> None:
    """Raises InvalidText for a file that is not YAML. The content does not matter."""
    text = decode(path.read_bytes(), str(path))
    try:
        for _ in yaml.parse(text, yaml.SafeLoader):
            pass
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise InvalidText(str(path), line, f"not YAML: {error.problem}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise InvalidText(str(path), line, f"not YAML: the character {error.character!r}") from None


def _eight_bits(data: bytes) -> str:
    try:
        data.decode("gbk")
    except UnicodeDecodeError:
        return ""
    return "GBK"
