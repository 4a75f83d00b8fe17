"""Archives, manifests and model settings that the running server is told to register, and must not."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.pdarchiver.crafting import FIFO, LINK, Crafted, Item, tar_gz, tar_item
from tests.security import documents
from tests.security.victim import Victim

HANDLER = b"def handle(data, context):\n    return data\n"
_numbers = itertools.count()
Register = Callable[..., None]


@pytest.fixture
def refused(victim: Victim, store_of_all: Path) -> Register:
    """Put an archive into the store and register it: a 400 with these words, and nothing is left of it."""

    def refused(data: bytes, words: str, suffix: str = ".pdar", status: int = 400) -> None:
        path = store_of_all / f"bad{next(_numbers)}{suffix}"
        path.write_bytes(data)
        try:
            victim.refuses(status, words, "POST", f"/models?url={path.name}", port="management")
        finally:
            path.unlink()

    return refused


def manifest(**model: object) -> dict[str, Any]:
    return {"runtime": "python", "model": {"modelName": "bad", "modelVersion": "1.0", "handler": "h.py", **model}}


def packed(document: object, files: dict[str, bytes] | None = None) -> bytes:
    text = document if isinstance(document, bytes) else json.dumps(document).encode()
    items = [Item(name.encode(), data) for name, data in {"h.py": HANDLER, **(files or {})}.items()]
    return Crafted([*items, Item(b"MAR-INF/MANIFEST.json", text)], with_manifest=False).bytes()


def good() -> bytes:
    return packed(manifest())


def test_the_good_one_is_good(victim: Victim, store_of_all: Path) -> None:
    (store_of_all / "good.pdar").write_bytes(good())
    pin = hashlib.sha256(good()).hexdigest().upper()
    answer = victim.ask("POST", f"/models?url=good.pdar&initial_workers=0&sha256={pin}", port="management")
    assert answer.status == 200, answer.body
    assert victim.ask("DELETE", "/models/bad", port="management").status == 200
    (store_of_all / "good.pdar").unlink()


NOT_ARCHIVES = {
    "empty": b"", "text": b"hello", "zeros": bytes(1000), "gzip": b"\x1f\x8b\x08\0",
    "a pickle": b"\x80\x04\x95", "a shell script": b"#!/bin/sh\nid\n", "ELF": b"\x7fELF" + bytes(60),
    "rar": b"Rar!\x1a\x07",
    "7z": b"7z\xbc\xaf\x27\x1c", "bzip2": b"BZh9", "xz": b"\xfd7zXZ\0", "zstd": b"\x28\xb5\x2f\xfd",
    "tar": bytes(10240),
}  # fmt: skip
SUFFIXES = [".pdar", ".mar", ".zip", ".tar.gz", ".tgz"]


@pytest.mark.parametrize("name", NOT_ARCHIVES)
def test_no_archive(refused: Register, name: str) -> None:
    refused(NOT_ARCHIVES[name], "", SUFFIXES[len(name) % len(SUFFIXES)])


@pytest.mark.parametrize("twentieth", range(1, 20))
def test_cut_short(refused: Register, twentieth: int) -> None:
    refused(good()[: len(good()) * twentieth // 20], "")
    tar = tar_gz([tar_item("h.py", HANDLER)])
    refused(tar[: len(tar) * twentieth // 20], "", ".tar.gz")


NAMES = [
    "../x",
    "..\\x",
    "/etc/x",
    "C:\\x",
    "a/../../x",
    "a//b",
    "%2e%2e/x",
    "a\0b",
    "a\nb",
    "\u202ea",
    "a ",
    "é" * 200,
]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_names(refused: Register, store_of_all: Path, name: str) -> None:
    before = sorted(store_of_all.parent.iterdir())
    refused(Crafted([Item(name.encode())]).bytes(), "the name")
    if "\0" not in name:
        refused(tar_gz([tar_item(name)]), "the name", ".tar.gz")
    assert sorted(store_of_all.parent.iterdir()) == before
    assert not Path("/etc/x").exists()


CONTENTS: list[tuple[str, bytes, str, str]] = [
    ("a link", Crafted([Item(b"a", b"/etc/passwd", mode=LINK)]).bytes(), ".pdar", "links are refused"),
    ("a pipe", Crafted([Item(b"a", b"", mode=FIFO)]).bytes(), ".pdar", "neither a file nor a folder"),
    ("a link in a tar", tar_gz([tar_item("a", kind=tarfile.SYMTYPE, linkname="/etc/passwd")]), ".tar.gz", "links"),
    ("a hard link", tar_gz([tar_item("a", kind=tarfile.LNKTYPE, linkname="/etc/passwd")]), ".tar.gz", "links"),
    ("a device", tar_gz([tar_item("a", kind=tarfile.CHRTYPE)]), ".tar.gz", "devices"),
    ("encrypted", Crafted([Item(b"a", flags=0x801)]).bytes(), ".pdar", "is encrypted"),
    ("another method", Crafted([Item(b"a", method=14)]).bytes(), ".pdar", "only stored and deflated"),
    ("twice", Crafted([Item(b"a"), Item(b"a")]).bytes(), ".pdar", "exclude each other"),
    ("differing in case", Crafted([Item(b"a"), Item(b"A")]).bytes(), ".pdar", "exclude each other"),
    ("a file and a folder", Crafted([Item(b"a"), Item(b"a/b")]).bytes(), ".pdar", "exclude each other"),
    ("two names", Crafted([Item(b"a", local_name=b"b")]).bytes(), ".pdar", "contradicts the directory"),
    ("another checksum", Crafted([Item(b"a", crc=1)]).bytes(), ".pdar", "does not fit its checksum"),
    ("another size", Crafted([Item(b"a", size=5)]).bytes(), ".pdar", "sizes contradict"),
    ("something before", Crafted([Item(b"a")], before=b"MZ" * 99).bytes(), ".pdar", "neither a zip"),
    ("something behind", Crafted([Item(b"a")], after=b"x").bytes(), ".pdar", "something behind its end"),
    ("overlapping", Crafted([Item(b"a", b"x" * 99),
    Item(b"b", b"x" * 99, header_at=0, packed=b"", packed_size=99)]).bytes(),
     ".pdar", "overlaps"),
    ("51 entries", Crafted([Item(b"%d" % n, b"") for n in range(51)]).bytes(), ".pdar", "at most 50 are accepted"),
    ("51 entries in a tar", tar_gz([tar_item(str(n), b"") for n in range(51)]), ".tar.gz", "more than 50 entries"),
    ("3 MB and more", Crafted([Item(b"%d" % n, os.urandom(10_000) * 100, method=8) for n in range(4)]).bytes(), ".pdar",
     "unpacks to more than 3000000 bytes"),
    ("2 MB and more", Crafted([Item(b"a", bytes(2_000_000))]).bytes(), ".pdar", "at most 2000000 are accepted"),
    ("a bomb", Crafted([Item(b"a", bytes(2_500_000), method=8)]).bytes(), ".pdar", "more than 100 times its size"),
    ("a bomb in a tar", tar_gz([tar_item("a", bytes(2_500_000))]), ".tar.gz", "more than 100 times its size"),
    ("no manifest", Crafted([Item(b"h.py", HANDLER)], with_manifest=False).bytes(), ".pdar",
    "has no PDAR-INF/MANIFEST"),
]  # fmt: skip


@pytest.mark.parametrize(("data", "suffix", "words"), [c[1:] for c in CONTENTS], ids=[c[0] for c in CONTENTS])
def test_contents(refused: Register, data: bytes, suffix: str, words: str) -> None:
    refused(data, words, suffix)


FIELDS: dict[str, list[Any]] = {
    "modelName": ["../x", "a b", "é", 1, [], "a" * 200],
    "modelVersion": ["../1", "1/2", "a b", 1.0, {}, "\n"],
    "handler": ["../h.py", "/h.py", "a:b:c", "h.py:1x", ":x", 1, "a\nb"],
    "serializedFile": ["../m", "/m", "a\\b", [], ".."],
}
SIGNATURES: list[Any] = [
    1, {}, [1], [{}], [{"name": "a"}], [{"name": "a", "dtype": "float", "shape": [], "source": "a"}],
    [{"name": "a", "dtype": "float32", "shape": [-2], "source": "a"}],
    [{"name": "a", "dtype": "float32", "shape": [True], "source": "a"}],
    [{"name": "a", "dtype": "float32", "shape": "1", "source": "a"}],
    [{"name": "a", "dtype": "float32", "shape": [2**63], "source": "a"}],
    [{"name": "a", "dtype": "float32", "shape": [], "source": "a"}] * 2,
    [{"name": "a\n", "dtype": "float32", "shape": [], "source": "a"}],
]  # fmt: skip
FILES = ("serializedFile", "paramsFile", "modelFile", "requirementsFile", "configFile")
MANIFESTS: list[tuple[Any, str]] = [
    (b"", "not JSON"), (b"[]", "expected an object"), (b"null", "expected an object"), (b'"a"', "expected an object"),
    (b"\xef\xbb\xbf{}", "not JSON"), ("{}".encode("utf-16"), "not JSON"), (b"{" * 2000, "not JSON"),
    (b"[" * 100_000, "not JSON"), (b'{"model": {}, "model": {}}', "given twice"), (b'{"a": NaN}', "NaN"),
    (b'{"a": ' + b"[" * 40 + b"]" * 40 + b"}", "nested more than 32 deep"),
    (b'{"a": "\\ud800"}', "half of a surrogate pair"), (b'{"\\udc00": 1}', "half of a surrogate pair"),
    (b'{"a": 18446744073709551616}', "too large"), (b'{"a": ' + b"9" * 10_000 + b"}", "too large"),
    ({"model": []}, "/model: expected an object"), ({"model": 1}, "/model: expected an object"),
    ({"model": {}, "files": []}, "/files: expected an object"), ({"model": {}, "signature": 1}, "/signature"),
    ({"model": {}, "files": {"a": "x"}}, "/files/a: expected a sha256"),
    ({"model": {}, "files": {"../a": "0" * 64}}, "/files/..~1a: the name"),
    ({"model": {}, "files": {"b": "0" * 64}}, "not in the archive: b"),
    ({**manifest(), "files": {}}, "files were added after packing"),
    ({**manifest(), "files": {"h.py": "0" * 64}}, "differ from their checksum"),
    ({"model": {}, "runtime": "java"}, "/runtime"), ({"model": {}, "runtime": 3}, "/runtime"),
    *((manifest(**{key: value}), f"/model/{key}") for key, values in FIELDS.items() for value in values),
    *((manifest(**{key: "gone"}), "not in the archive: gone") for key in FILES),
    (manifest(handler="gone.py"), "not in the archive: gone.py"),
    *(({**manifest(), "signature": {"inputs": inputs, "outputs": []}}, "/signature/inputs") for inputs in SIGNATURES),
]  # fmt: skip


@pytest.mark.parametrize(("document", "words"), MANIFESTS, ids=lambda value: ascii(value)[:50])
def test_manifests(refused: Register, document: Any, words: str) -> None:
    refused(packed(document), words)


@pytest.mark.parametrize("name", list(documents.refused())[::12], ids=lambda case: case[0])
def test_manifests_that_are_no_json(refused: Register, name: tuple[str, bytes]) -> None:
    refused(packed(name[1]), "manifest: ")


YAMLS = [
    ("a: !!python/object/apply:os.system ['touch /tmp/pwned']", "could not determine a constructor"),
    ("!!python/object/new:os._exit [1]", "could not determine a constructor"),
    ("a: !!python/name:os.system", "could not determine a constructor"),
    ("a: &x [1]\nb: [*x, *x]", "aliases"),
    ("a: &a [" + "x," * 9 + "]\n" + "\n".join(f"{c}: &{c} [*{b}, *{b}]" for b, c in itertools.pairwise("abcdefgh")),
    "aliases"),
    ("batchSize: 1\nbatchSize: 2", "given twice"), ("- a", "expected keys and values"), ("just text", "expected keys"),
    ("1: a", "put it in quotes"), ("null: a", "put it in quotes"), ("[a]: b", "unhashable"),
    ("2001-01-01: b", "quotes"),
    ("a: b: c", "mapping values"), ("a: [", "stream end"), ("\ta: b", "token"), ("a: 'b", "end of stream"),
    ("%YAML 9.9", ""),
    ("a: \0", "special characters"), ("a: b\n---\nc: d", "another document"), ("? [a]\n: b", "unhashable"),
    ("a: " + "[" * 2000, ""), ("a: " + "x" * 300_000, "at most 262144"), ("a: 2001-99-99", ""),
    ("a: " + "9" * 6000, ""),
    ("a: 123456789012345678901234567890", "of more than 64 bits"),
    ("a: [{b: 0x" + "f" * 20 + "}]", "of more than 64 bits"),
    ("a: \"\\ud800\"", "half of a surrogate pair"), ("a: {\"\\udfff\": 1}", "half of a surrogate pair"),
    *((f"batchSize: {value}", "batchSize") for value in ("1e9", "0", "-1", "1.5", "many", "true", "null", "[]", "4097",
    ".nan")),
    *((f"maxBatchDelay: {value}", "maxBatchDelay") for value in ("-1", ".inf", ".nan", "'1'", "1e99")),
    *((f"responseTimeout: {value}", "responseTimeout") for value in ("0", "-1", ".nan", "{}", "2001-01-01")),
    *((f"minWorkers: {value}", "minWorkers") for value in ("-1", "1025", "1e3", "x")),
    ("minWorkers: 4\nmaxWorkers: 2", "more than maxWorkers"), ("deviceIds: [0]\ndeviceType: cpu", "deviceIds"),
    ("batch_size: 4", "did you mean batchSize"), ("BatchSize: 4", "did you mean batchSize"),
    ("deviceType: tpu", "deviceType"),
    ("serviceEnvelope: xml", "serviceEnvelope"), ("useVenv: maybe", "useVenv"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "words"), YAMLS, ids=lambda value: ascii(value)[:50])
def test_model_settings(refused: Register, text: str, words: str) -> None:
    refused(packed(manifest(configFile="c.yaml"), {"c.yaml": text.encode()}), words)
    assert not Path("/tmp/pwned").exists()


@pytest.mark.parametrize("changed", ["h.py", "MAR-INF/MANIFEST.json"])
def test_every_byte_counts(victim: Victim, store_of_all: Path, changed: str) -> None:
    """A pin is compared before anything in the archive is looked at."""
    pin = hashlib.sha256(good()).hexdigest()
    at = good().index(changed.encode())
    path = store_of_all / "pinned.pdar"
    path.write_bytes(good()[:at] + b"X" + good()[at + 1 :])
    target = f"/models?url=pinned.pdar&initial_workers=0&sha256={pin}"
    victim.refuses(400, f"not {pin}: not the archive that is meant", "POST", target, port="management")
    path.unlink()


def test_a_folder_cannot_be_pinned(victim: Victim, store_of_all: Path) -> None:
    (store_of_all / "folder" / "MAR-INF").mkdir(parents=True)
    (store_of_all / "folder" / "MAR-INF" / "MANIFEST.json").write_text(json.dumps(manifest()))
    target = f"/models?url=folder&sha256={'0' * 64}"
    victim.refuses(400, "a folder, which has no sha256", "POST", target, port="management")
