"""Files that name classes are read when they are packed, and their mistakes are told by line."""

from __future__ import annotations

from pathlib import Path

import pytest

from pdarchiver import labels
from pdarchiver.errors import InvalidText
from pdarchiver.pack import PackOptions, pack

LINES, JSON = "label_list.txt", "index_to_name.json"


@pytest.mark.parametrize(
    ("name", "content", "names"),
    [
        (LINES, b"cat\ndog\n", {0: "cat", 1: "dog"}),
        (LINES, b"\xef\xbb\xbfcat\r\n dog \r\n\r\n", {0: "cat", 1: "dog"}),
        (LINES, b"0 tench, Tinca tinca\n1\tgoldfish\n", {0: "tench, Tinca tinca", 1: "goldfish"}),
        (LINES, b"0 cat\n5 dog", {0: "cat", 5: "dog"}),
        (LINES, b"1 yuan\n2 yuan", {0: "1 yuan", 1: "2 yuan"}),
        (LINES, "猫".encode(), {0: "猫"}),
        (JSON, b'{"0": "cat", "2": ["n01", "dog"]}', {0: "cat", 2: "dog"}),
        (JSON, b'{"object_type_names": ["cat", ["n01", "dog"]]}', {0: "cat", 1: "dog"}),
        (JSON, b"{}", {}),
    ],
)
def test_names_by_class(name: str, content: bytes, names: dict[int, str]) -> None:
    assert labels.read(content, name) == names
    labels.check(content, name, 6)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            LINES,
            "cat\n中文\n".encode("gbk"),
            "line 2: not UTF-8 text, but GBK: save it as UTF-8, such as by iconv",
        ),
        (LINES, "cat\n".encode("utf-16"), "line 1: not UTF-8 text, but UTF-16: save it as UTF-8, such as by iconv"),
        (LINES, b"cat\n\xff\xff\n", "line 2: not UTF-8 text: save it as UTF-8"),
        (LINES, b"", "line 1: empty: expected the name of class 0"),
        (LINES, b"cat\n\ndog\n", "line 2: empty: expected the name of class 1; without it, all names below are one"),
        (LINES, b"0 cat\ndog\n", "line 2: expected a class and its name, as '0 cat' is, got 'dog'"),
        (LINES, b"0 cat\n1 dog\n0 cow", "line 3: class 0 has a name already: give each class one line"),
        (LINES, b"a\nb\nc\nd\ne\nf\ng\n", "line 7: class 6 is 'g', but the model has 6 classes, counted from 0"),
        (JSON, '{\n"0": "中文"}'.encode("gbk"), "line 2: not UTF-8 text, but GBK"),
        (JSON, b'{\n"0": "cat",\n}', "line 3: not JSON: "),
        (JSON, b'{\n"0": "cat",\n"dog": "dog"}', "line 3: 'dog' is not a class's number: expected {"),
        (JSON, b'{"0": "cat",\n"1": 1}', "line 2: 1 is not a name: expected {"),
        (JSON, b'{"0": "cat",\n"1": "dog",\n"0": "cow"}', "line 3: '0' is given twice: give each class one name"),
        (JSON, b'{"0": "cat",\n"6": "dog"}', "line 2: class 6 is 'dog', but the model has 6 classes, counted from 0"),
        (JSON, b'{"0": "cat",\n"00": "dog"}', "line 2: class 0 has a name already: give each class one name"),
        (JSON, b'{"0": "\\ud800"}', "line 1: '\\ud800' has half of a surrogate pair"),
        (JSON, b'{"0": ' + b"9" * 10_000 + b"}", 'line 1: expected {"0": "name"}'),
        (LINES, b"a\rb\rc\rd\re\rf\rg", "line 7: class 6 is 'g', but the model has 6 classes"),
        (LINES, b"a\n" * (5 << 20), "line 1: larger than 8 MiB: name each class once"),
        (JSON, b"[1]", 'line 1: expected {"0": "name"}'),
        (JSON, b"[" * 100_000, 'line 1: expected {"0": "name"}'),
    ],
)
def test_mistakes_by_line(name: str, content: bytes, message: str) -> None:
    with pytest.raises(InvalidText) as raised:
        labels.check(content, name, 6)
    assert str(raised.value).startswith(f"{name}: {message}")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (LINES, "中文".encode("gbk"), "not UTF-8 text, but GBK"),
        (LINES, b"a\nb\nc\nd\ne\nf", "line 6: class 5 is 'f', but the model has 5 classes"),
        ("inference.yml", b"a: b\nc: [", "line 2: not YAML: "),
        ("infer_cfg.yml", "a: b\nc: 中文".encode("gbk"), "line 2: not UTF-8 text, but GBK"),
        ("deploy.yaml", b"a: b\nc: \x07", "line 2: not YAML: the character"),
    ],
)
def test_told_when_packing(models: Path, tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    options = PackOptions(
        model_name="m",
        version="1.0",
        handler="image_classifier",
        serialized_file=models / "pir" / "convolution.json",
        extra_files=(str(tmp_path / name),),
        export_path=tmp_path / "store",
    )
    with pytest.raises(InvalidText, match=f"^{tmp_path / name}: .*{message}"):
        pack(options)
    assert not (tmp_path / "store").exists()


def test_handlers_of_ones_own_have_files_of_any_form(linear: Path, tmp_path: Path) -> None:
    (tmp_path / JSON).write_text('{"label_list": "[O, B-MISC]"}')
    (tmp_path / "own.py").write_text("def handle(data, context):\n    return data\n")
    options = PackOptions(
        model_name="m",
        version="1.0",
        handler=str(tmp_path / "own.py"),
        serialized_file=linear,
        extra_files=(str(tmp_path / JSON),),
        export_path=tmp_path / "store",
    )
    assert pack(options).is_file()
