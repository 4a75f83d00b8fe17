"""Manifests: what is accepted, and that each refusal points at the field."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdarchiver.dtypes import DTYPES
from pdarchiver.errors import InvalidArchive, InvalidManifest
from pdarchiver.manifest import (
    MAX_MANIFEST_BYTES,
    Manifest,
    Signature,
    TensorSpec,
    check_name,
    check_version,
    dump,
    parse,
)

SHA = "a" * 64
FULL: dict[str, Any] = {
    "createdOn": "31/12/2025 23:59:59",
    "runtime": "python",
    "archiverVersion": "0.1.0",
    "model": {
        "modelName": "price",
        "modelVersion": "1.0",
        "handler": "handler.py:run",
        "serializedFile": "inference.json",
        "paramsFile": "inference.pdiparams",
        "modelFile": "net.py",
        "requirementsFile": "requirements.txt",
        "configFile": "price.yaml",
    },
    "signature": {
        "inputs": [{"name": "features", "dtype": "float32", "shape": [-1, 13], "source": "x"}],
        "outputs": [{"name": "price", "dtype": "bfloat16", "shape": [], "source": "fetch_name_0"}],
    },
    "files": {"inference.json": SHA, "模型/é.txt": SHA},
}


def edited(pointer: str, value: Any) -> bytes:
    """FULL with the value at a JSON pointer replaced."""
    root = json.loads(json.dumps(FULL))
    *above, last = pointer.split("/")[1:]
    at = root
    for key in above:
        at = at[int(key)] if isinstance(at, list) else at[key]
    at[last] = value
    return json.dumps(root).encode()


def test_everything_is_read() -> None:
    assert parse(json.dumps(FULL).encode()) == Manifest(
        model_name="price",
        model_version="1.0",
        handler="handler.py:run",
        serialized_file="inference.json",
        params_file="inference.pdiparams",
        model_file="net.py",
        requirements_file="requirements.txt",
        config_file="price.yaml",
        runtime="python",
        created_on="31/12/2025 23:59:59",
        archiver_version="0.1.0",
        signature=Signature(
            (TensorSpec("features", "float32", (-1, 13), "x"),),
            (TensorSpec("price", "bfloat16", (), "fetch_name_0"),),
        ),
        files={"inference.json": SHA, "模型/é.txt": SHA},
    )
    assert parse(json.dumps(FULL).encode()).raw == FULL


def test_what_is_written_reads_back() -> None:
    manifest = parse(json.dumps(FULL).encode())
    assert json.loads(dump(manifest)) == FULL
    assert parse(dump(manifest)) == manifest


@pytest.mark.parametrize("text", ["{}", '{"model": {}}', '{"model": null}', '{"model": {"modelVersion": ""}}'])
def test_torchserve_lets_fields_be_absent(text: str) -> None:
    manifest = parse(text.encode())
    assert (manifest.model_name, manifest.model_version, manifest.handler) == (None, "1.0", "base_handler")
    assert manifest.signature is None
    assert not manifest.has_checksums


def test_unknown_fields_are_kept() -> None:
    manifest = parse(b'{"description": "d", "model": {"modelName": "m", "envelope": "json"}}')
    assert manifest.raw["model"]["envelope"] == "json"


BAD = [
    ("/createdOn", 3),
    ("/runtime", "LSP"),
    ("/runtime", ["python"]),
    ("/archiverVersion", {}),
    ("/model", []),
    ("/model/modelName", "../x"),
    ("/model/modelName", 7),
    ("/model/modelVersion", 1.0),
    ("/model/modelVersion", "1/0"),
    ("/model/handler", "/etc/passwd"),
    ("/model/handler", "../h.py"),
    ("/model/handler", "h.py:"),
    ("/model/handler", "h.py:a.b"),
    ("/model/handler", "a:b:c"),
    ("/model/handler", True),
    ("/model/serializedFile", "../inference.json"),
    ("/model/paramsFile", "a\\b"),
    ("/model/modelFile", "a\nb"),
    ("/model/requirementsFile", "/r.txt"),
    ("/model/configFile", "a//b"),
    ("/signature", "x"),
    ("/signature/inputs", {}),
    ("/signature/outputs", None),
    ("/signature/inputs/0/name", ""),
    ("/signature/inputs/0/dtype", "float31"),
    ("/signature/inputs/0/shape", [1.5]),
    ("/signature/inputs/0/shape", [True]),
    ("/signature/inputs/0/shape", [-2]),
    ("/signature/inputs/0/shape", None),
    ("/signature/outputs/0/source", None),
    ("/files", [1]),
    ("/files/inference.json", "ABC"),
    ("/files/inference.json", None),
]


@pytest.mark.parametrize(("pointer", "value"), BAD)
def test_a_wrong_field_is_pointed_at(pointer: str, value: Any) -> None:
    with pytest.raises(InvalidManifest) as caught:
        parse(edited(pointer, value))
    assert caught.value.pointer == pointer
    assert f"manifest {pointer}: " in str(caught.value)


def test_a_wrong_file_name_is_pointed_at_escaped() -> None:
    with pytest.raises(InvalidManifest) as caught:
        parse(edited("/files", {"a~/../b": SHA}))
    assert caught.value.pointer == "/files/a~0~1..~1b"


def test_equal_names_in_a_signature() -> None:
    spec = FULL["signature"]["inputs"][0]
    for twin in ({**spec, "source": "z"}, {**spec, "name": "z"}):
        with pytest.raises(InvalidManifest, match="/signature/inputs: names are not unique"):
            parse(edited("/signature/inputs", [spec, twin]))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"null",
        b"{",
        b"\xef\xbb\xbf{}",
        "{}".encode("utf-16"),
        b"\xff\xfe",
        b'{"model": NaN}',
        b'{"model": {}, "model": {}}',
        b"[" * 200_000,
        b'{"a": ' + b"9" * 5000 + b"}",
        b" " * (MAX_MANIFEST_BYTES + 1),
    ],
    ids=["empty", "array", "null", "cut", "bom", "utf16", "bytes", "nan", "twins", "deep", "digits", "long"],
)
def test_what_is_no_manifest(data: bytes) -> None:
    with pytest.raises(InvalidManifest) as caught:
        parse(data)
    assert caught.value.pointer == ""


numbers = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    st.none() | st.booleans() | numbers | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=5,
)


@given(pointer=st.sampled_from(sorted({pointer for pointer, _ in BAD})), value=json_values)
def test_any_value_anywhere_is_read_or_refused(pointer: str, value: Any) -> None:
    try:
        manifest = parse(edited(pointer, value))
    except InvalidManifest as error:
        refused_at: str | None = error.pointer
    else:
        refused_at = None
        assert parse(dump(manifest)) == manifest
    assert refused_at is None or refused_at.startswith(pointer)


@given(st.text(max_size=20))
def test_names_that_pass_are_safe_in_paths_and_urls(name: str) -> None:
    try:
        check_name(name)
        check_version(name)
    except ValueError:
        return
    assert name.isascii()
    assert name[0].isalnum()
    assert not set(name) & set("/\\:%?# \n")


@pytest.mark.parametrize("name", ["", ".", "..", "-a", "_a", "a/b", "a b", "a\n", "é", "a" * 129])
def test_bad_names(name: str) -> None:
    with pytest.raises(ValueError, match="must start with a letter or a digit"):
        check_name(name)


@pytest.mark.parametrize("name", ["a", "0", "ResNet-50_v1.5", "a" * 128])
def test_good_names(name: str) -> None:
    assert check_name(name) == check_version(name) == name


def test_check_files() -> None:
    manifest = parse(edited("/model", {"handler": "base_handler"}))
    manifest.check_files(dict(manifest.files))
    with pytest.raises(InvalidArchive, match=r"not in the archive: 模型/é\.txt"):
        manifest.check_files({"inference.json": SHA})
    with pytest.raises(InvalidArchive, match=r"does not know them: evil\.py"):
        manifest.check_files({**manifest.files, "evil.py": SHA})
    with pytest.raises(InvalidArchive, match=r"checksum in the manifest: inference\.json"):
        manifest.check_files({**manifest.files, "inference.json": "b" * 64})
    with pytest.raises(InvalidArchive, match=r"not in the archive: handler\.py"):
        parse(b'{"model": {"handler": "handler.py:run"}}').check_files({})


def test_a_manifest_without_files_is_not_a_manifest_of_no_files() -> None:
    parse(b"{}").check_files({"added.py": SHA})
    with pytest.raises(InvalidArchive, match=r"added\.py"):
        parse(b'{"files": {}}').check_files({"added.py": SHA})


def test_dtypes_are_numpys() -> None:
    for dtype in DTYPES - {"bfloat16", "float8_e4m3fn", "float8_e5m2"}:
        assert np.dtype(dtype).name == dtype
