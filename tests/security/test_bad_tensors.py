"""Arrays that lie: in JSON, in .npy files, in envelopes."""

from __future__ import annotations

import base64
import json
import struct
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pdserver.errors import InvalidRequest
from pdserver.handlers.runtime.npy import load_npy
from tests.security.victim import Victim

JSON = {"Content-Type": "application/json"}
ROW = list(range(13))
DATA = np.arange(13, dtype=np.float32).tobytes()


def npy(header: str | bytes = "", data: bytes = DATA, version: bytes = b"\x01\x00", length: int | None = None) -> bytes:
    """An .npy file, byte by byte; the header is `descr`, `fortran_order` and `shape` of 13 floats unless given."""
    text = header or "{'descr': '<f4', 'fortran_order': False, 'shape': (13,), }\n"
    raw = text.encode("latin-1") if isinstance(text, str) else text
    form = "<H" if version == b"\x01\x00" else "<I"
    return b"\x93NUMPY" + version + struct.pack(form, len(raw) if length is None else length) + raw + data


def header(descr: str = "'<f4'", order: str = "False", shape: str = "(13,)") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n"


WRONG_SHAPES: list[tuple[Any, str]] = [
    ([], "shape [0]"),
    ([1], "shape [1]"),
    (ROW[:12], "shape [12]"),
    ([*ROW, 13], "shape [14]"),
    ([[ROW]], "expected float32 of shape [13]"),
    ([[]], "expected float32 of shape [13]"),
    ([ROW, ROW[:12]], "different lengths"),
    ([ROW, 1], "beside lists"),
    ([[*ROW[:12], [1]]], "a list at [0][12]"),
    (1, "a single number"),
    ({"x": {"x": ROW}}, "an object"),
    ([[{"a": 1}] * 13], "an object"),
]
WRONG_VALUES: list[tuple[Any, str]] = [
    (value, "expected float32 of shape [13]")
    for value in (None, "1", "", True, [1], {}, "NaN", "inf", "1e1", "\u0661", 1e39, -1e39, 10**40, {"b64": "AAAA"})
]
DOCUMENTS: list[tuple[Any, str]] = [
    ({}, "is empty"),
    ({"y": ROW}, 'unknown input "y"'),
    ({"x": ROW, "y": 1}, 'unknown input "y"'),
    ({"X": ROW}, 'unknown input "X"'),
    ({"x" * 5000: ROW}, "unknown input"),
    ({"x\n\u001b[31m": ROW}, "unknown input"),
    ([], "shape [0]"),
    (None, "expected float32"),
    ("text", "expected float32"),
    ({"inputs": [{"name": "x", "shape": [1, 13], "datatype": "FP32", "data": ROW}]}, "unknown input"),
]
NPYS: list[tuple[str, bytes, str]] = [
    ("the magic alone", b"\x93NUMPY", "version 0.0"),
    ("no version", b"\x93NUMPY\x01", "version 0.0"),
    ("version 9.9", npy(version=b"\x09\x09"), "version 9.9"),
    ("version 0.0", npy(version=b"\x00\x00"), "version 0.0"),
    ("no length", b"\x93NUMPY\x01\x00", "ends within its header"),
    ("half a length", b"\x93NUMPY\x02\x00\x10\x00", "ends within its header"),
    ("a header that is not there", npy()[:20], "ends within its header"),
    ("a header of 4 GB", npy(version=b"\x02\x00", length=2**32 - 1), "ends within its header"),
    ("a header of 20 kB", npy(header() + " " * 20_000), "far too long"),
    ("no header", npy(length=0), "its header is empty"),
    ("a list", npy("['<f4', False, (13,)]\n"), "header does not say"),
    ("an empty dict", npy("{}\n"), "header does not say"),
    ("no dict", npy("0\n"), "header does not say"),
    ("without descr", npy("{'fortran_order': False, 'shape': (13,)}"), "header does not say"),
    ("without shape", npy("{'descr': '<f4', 'fortran_order': False}"), "header does not say"),
    ("more than it needs", npy("{'descr': '<f4', 'fortran_order': False, 'shape': (13,), 'a': True}"), "does not say"),
    ("descr twice", npy("{'descr': '<f4', 'descr': '<f8', 'fortran_order': False, 'shape': (13,)}"), "descr twice"),
    ("code behind it", npy(header().rstrip() + ".__class__"), "header does not say"),
    ("code in it", npy(header(shape="(__import__('os').getpid(),)")), "header does not say"),
    ("a thousand minus signs", npy("-" * 9000 + "1"), "header does not say"),
    ("a thousand brackets", npy("(" * 9000), "header does not say"),
    ("zeros", npy(b"\0" * 64), "header does not say"),
    *(
        (f"dtype {descr}", npy(header(descr)), "no number" if descr[0] in "'\"" else "header does not say")
        for descr in (
            "'|O'", "'O'", "'<U3'", "'|S4'", "'|V4'", "'<M8[ns]'", "'<m8'", "'f'", "'float32'", "''", "'<f3'", "'<f16'",
            "'i'", "'<i16'", "'<f4,<f4'", "'4f4'", "'(13,)f4'", "[('a', '<f4')]", "('<f4', (13,))", "None", "1",
            "'<f4\\n'",
            "'\u00ff'",
        )
    ),
    *(
        (f"shape {shape[:30]}", npy(header(shape=shape)), words)
        for shape, words in (
            ("(12,)", "48 bytes, found 52"), ("(14,)", "56 bytes, found 52"), ("(2, 13)", "found 52"),
            ("()", "found 52"),
            ("(0,)", "0 bytes, found 52"), ("(-13,)", "its shape is"), ("(-1, -13)", "its shape is"),
            ("(13)", "its shape is"), ("(13.0,)", "its shape is"), ("(1e1,)", "its shape is"),
            ("(True,)", "its shape is"),
            ("(13,,)", "its shape is"), ("(,)", "its shape is"), ("(0x0d,)", "its shape is"), ("[13]", "does not say"),
            ("13", "does not say"), ("((13,),)", "does not say"), (f"({2**62}, 0)", "0 bytes, found 52"),
            (f"({2**32}, {2**32})", "float32 of shape [4294967296, "), (f"({2**64 + 13},)", "its shape is"),
            (f"({10**30},)", "its shape is"),
            ("(" + "1, " * 32 + "13)", "more than 32"), ("(" + "9" * 5000 + ",)", "its shape is"),
            ("(1_3,)", "its shape"),
        )
    ),
    *((f"order {order}", npy(header(order=order)), "its ") for order in ("0", "None", "'C'", "(1,)", "true")),
    ("bytes missing", npy(data=DATA[:-1]), "52 bytes, found 51"),
    ("bytes too many", npy(data=DATA + b"\0"), "52 bytes, found 53"),
    ("no data", npy(data=b""), "52 bytes, found 0"),
    ("doubles", npy(header("'<f8'"), np.zeros(13).tobytes()), "got float64 of shape [13]"),
    ("whole numbers", npy(header("'<i4'"), DATA), "got int32 of shape [13]"),
    ("truths", npy(header("'|b1'"), DATA[:13]), "got bool of shape [13]"),
    ("complex numbers", npy(header("'<c8'"), DATA * 2), "got complex64 of shape [13]"),
    ("three axes", npy(header(shape="(1, 1, 13)")), "got float32 of shape [1, 1, 13]"),
    ("no rows", npy(header(shape="(0, 13)"), b""), "got float32 of shape [0, 13]"),
]  # fmt: skip
BASE64 = {
    "padding within": "QQ==QQ==", "a dot": "QUJ.", "blanks": "QU JD", "one letter": "Q", "not ASCII": "QUJDé",
    "a data URL without data": "data:",
    "a number": 1, "nothing": None, "a list": ["QUJD"], "an object": {}, "truth": True,
}  # fmt: skip
BARE: list[Any] = [
    {}, [], None, 1, {"instances": 1}, {"instances": {}}, {"inputs": None}, {"inputs": "a"}, {"a": []},
]  # fmt: skip


@pytest.mark.parametrize(("value", "words"), WRONG_SHAPES, ids=lambda value: str(value)[:40])
def test_shapes(victim: Victim, value: Any, words: str) -> None:
    victim.refuses(400, words, "POST", "/predictions/fit", json.dumps({"x": value}).encode(), JSON)


@pytest.mark.parametrize(("value", "words"), WRONG_VALUES, ids=lambda value: str(value)[:40])
@pytest.mark.parametrize("place", [0, 12])
def test_values(victim: Victim, value: Any, words: str, place: int) -> None:
    row: list[Any] = [*ROW]
    row[place] = value
    victim.refuses(400, words, "POST", "/predictions/fit", json.dumps({"x": row}).encode(), JSON)
    victim.refuses(400, words, "POST", "/predictions/fit", json.dumps({"x": [ROW, row]}).encode(), JSON)


@pytest.mark.parametrize(("document", "words"), DOCUMENTS, ids=lambda value: str(value)[:40])
def test_inputs(victim: Victim, document: Any, words: str) -> None:
    victim.refuses(400, words, "POST", "/predictions/fit", json.dumps(document).encode(), JSON)


def test_nesting_without_end_in_a_tensor(victim: Victim) -> None:
    body = b'{"x": ' + b"[" * 60 + b"]" * 60 + b"}"
    victim.refuses(400, "nested more than 32 deep", "POST", "/predictions/fit", body, JSON)


@pytest.mark.parametrize(("body", "words"), [case[1:] for case in NPYS], ids=[case[0] for case in NPYS])
def test_npy(victim: Victim, body: bytes, words: str) -> None:
    victim.refuses(400, words, "POST", "/predictions/fit", body, {"Content-Type": "application/octet-stream"})


def test_what_npy_files_may_be(victim: Victim) -> None:
    rows = np.stack([np.arange(13, dtype=np.float32)] * 2)
    for array in (rows, np.asfortranarray(rows), rows.astype(">f4")):
        answer = victim.ask("POST", "/predictions/fit", saved(array))
        assert answer.status == 200, answer
        assert len(json.loads(answer.body)["fetch_name_0"]) == 2


@pytest.mark.parametrize("name", BASE64)
def test_base64(victim: Victim, name: str) -> None:
    body = json.dumps({"instances": [{"b64": BASE64[name]}]}).encode()
    victim.refuses(400, '"b64" is not base64', "POST", "/predictions/wrapped", body, JSON)
    nested = json.dumps({"instances": [{"x": {"b64": BASE64[name]}}]}).encode()
    victim.refuses(400, '"b64" is not base64', "POST", "/v1/models/wrapped:predict", nested, JSON)
    victim.refuses(400, "is not of expected type: float", "POST", "/v1/models/fit:predict", nested, JSON)


@pytest.mark.parametrize(
    ("model", "document", "words"),
    [
        *((model, document, "expected a JSON object with a list") for model in ("wrapped",
        "kserve2") for document in BARE),
        ("wrapped", {"instances": [[1]]}, "expected float32"),
        ("wrapped", {"instances": [ROW, [1]]}, "expected float32"),
        ("wrapped", {"instances": [{"y": ROW}]}, "unknown input"),
        ("wrapped", {"instances": [None]}, "expected float32"),
        ("wrapped", {"instances": [{"b64": base64.b64encode(b"hello").decode()}]}, "5 bytes of something else"),
        ("wrapped", {"instances": [{"b64": base64.b64encode(npy(data=b"")).decode()}]}, "the .npy file"),
        ("kserve2", {"inputs": [1]}, "expected float32"),
        ("kserve2", {"inputs": [{"name": "x"}]}, "unknown input"),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_envelopes(victim: Victim, model: str, document: Any, words: str) -> None:
    victim.refuses(400, words, "POST", f"/predictions/{model}", json.dumps(document).encode(), JSON)


def saved(array: np.ndarray[Any, Any]) -> bytes:
    file = BytesIO()
    np.save(file, array)
    return file.getvalue()


ARRAYS = hnp.arrays(
    st.sampled_from(["<f4", ">f4", "<f8", "<i8", "|u1", "|b1", "<f2", ">i4", "<c8"]),
    hnp.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=4),
)


@given(ARRAYS, st.booleans())
def test_what_numpy_writes_is_read(array: np.ndarray[Any, Any], fortran: bool) -> None:
    given = np.asfortranarray(array) if fortran else array
    read = load_npy(saved(given))
    assert read.dtype == array.dtype
    assert read.shape == given.shape
    assert read.tobytes() == array.tobytes()


@given(ARRAYS.map(saved), st.data())
def test_any_damage_is_refused_or_harmless(data: bytes, draw: st.DataObject) -> None:
    damaged = bytearray(data)
    for _ in range(draw.draw(st.integers(1, 4))):
        damaged[draw.draw(st.integers(0, len(damaged) - 1))] = draw.draw(st.integers(0, 255))
    try:
        read = load_npy(bytes(damaged[: draw.draw(st.integers(0, len(damaged)))]))
    except InvalidRequest:
        return
    assert read.nbytes <= len(damaged)
