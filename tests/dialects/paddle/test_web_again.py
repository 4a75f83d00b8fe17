"""Web services' messages that were read before: known or not, they are read the same, and have the same errors."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdserver.configuration.model import ModelSpec
from pdserver.dialects.known import PACKED, KnownRequests
from pdserver.dialects.paddle import pipeline_message, web
from pdserver.dialects.paddle.pipeline_message import Sent
from pdserver.dialects.paddle.pipeline_text import SPELLING
from pdserver.dialects.paddle.web_request import Known, WebRequest
from pdserver.dialects.protos import message_class
from pdserver.errors import PdError
from pdserver.types import Interface, Port

Message = message_class("baidu.paddle_serving.pipeline_serving.Request")
SPEC = ModelSpec(name="m", version="1", url="", directory="", handler="", manifest={}, model_config={}, batch_size=8)
DTYPES = {"float32": (1, "float_data"), "float64": (3, "float64_data"), "int64": (0, "int64_data")}
INTERFACES = {
    dtype: Interface([Port("x", dtype, (-1, 2))], [Port("y", dtype, (-1, 1))], True) for dtype in (*DTYPES, "bytes")
}
BODIES = [
    ('{"feed":[{"x":', "[1,2]", '}],"fetch":["y"]}'),
    ('{"fetch": [], "feed": {"x": ', "[[1,2]]", "}}"),
    ('{"key":["x"],"value":["', "[[1,2]]", '"]}'),
    ('{"value":["', "1, 2", '"], "key":["x"]}'),
    ('{"key":["x"],"value":["array([', "[1., 2.]", '], dtype=float32)"]}'),
    ('{"tensors":[{"name":"x","elem_type":TYPE,"shape":[1,2],"FIELD":', "[1,2]", "}]}"),
]
NUMBERS = st.one_of(
    st.integers(-5, 5).map(str), st.integers().map(str), st.floats().map(json.dumps), st.floats(width=32).map(repr),
    st.sampled_from(
        ["1e39", "-1e400", "0.1", "-0", "-0.0", "1E2", "1e-50", "16777217", "1.0", "01", "1.", "1..5", "5 .", ".5",
         "+1", "true", "null", '"NaN"', '\\"1\\"', "nan", "True", "9223372036854775808", "1" * 400,
         "[1]", "1;2", "1],[2"]
    ),
)  # fmt: skip
SPACES = st.sampled_from(["", "", "", " ", "\n", "\\n", "\t", "\xa0"])


@st.composite
def texts(draw: Any, usual: str) -> str:
    """What may stand where a list of two numbers is expected."""
    pieces = draw(st.lists(NUMBERS, min_size=1, max_size=3))
    text = usual.replace(usual.strip("[]"), f"{draw(SPACES)}{(draw(SPACES) + ',').join(pieces)}{draw(SPACES)}")
    odd = ["[{}]", "{}]", "[{}", "{},[1,2]", '{},"z":[3]', '{}","1,2', '{}"],"key":["x', "1", "", "({},)", "array({})"]
    return draw(st.sampled_from(odd)).format(text) if draw(st.integers(0, 3)) == 0 else text


@pytest.fixture(autouse=True)
def nothing_was_read_before() -> Iterator[None]:
    with forgetful():
        yield


@contextmanager
def forgetful() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(web, "_read_before", KnownRequests(web.numbers_of, SPELLING))
        patch.setattr(pipeline_message, "_read_before", KnownRequests(pipeline_message.numbers_of, PACKED))
        yield


def known(dtype: str = "float32", *, spec: ModelSpec = SPEC, id: str = "id") -> Known:
    return Known(spec, INTERFACES[dtype], [(b"a", b"b")], id, 1.5)


def read(known: Known, data: bytes, *, either: bool = True, message: bool = False) -> Any:
    """The request, or the error."""
    try:
        return Sent(data).request(known) if message else web.read_body(known, data, either=either)
    except PdError as error:
        return str(error), error.status, type(error)


def read_anew(known: Known, data: bytes, **how: bool) -> Any:
    """The same, as if nothing had been read before."""
    with forgetful():
        return read(known, data, **how)


@pytest.mark.parametrize("parts", BODIES)
@given(dtype=st.sampled_from(list(DTYPES)), data=st.data())
def test_numbers_in_bodies_are_read_as_ever(dtype: str, parts: tuple[str, str, str], data: st.DataObject) -> None:
    number, field = DTYPES[dtype]
    before, usual, after = (part.replace("TYPE", str(number)).replace("FIELD", field) for part in parts)
    first, body = f"{before}{usual}{after}".encode(), f"{before}{data.draw(texts(usual))}{after}".encode()
    asked = known(dtype)
    expected = read_anew(asked, body)
    read(asked, first)
    for _ in range(2):
        assert read(asked, body) == expected


@given(numbers=st.binary(min_size=8, max_size=8), cut=st.integers(-3, 3), extra=st.binary(max_size=3))
def test_numbers_in_messages_are_read_as_ever(numbers: bytes, cut: int, extra: bytes) -> None:
    usual, whole = message(struct.pack("<2f", 1, 2)), message(numbers)
    place = whole.find(numbers) + 4
    for data in (whole, whole[:place] + extra + whole[place + cut :], message(numbers[:4]), message(numbers * 2)):
        asked = known()
        expected = read_anew(asked, data, message=True)
        read(asked, usual, message=True)
        for _ in range(2):
            assert read(asked, data, message=True) == expected


def message(numbers: bytes, **more: Any) -> bytes:
    tensor = {"name": "x", "elem_type": 1, "shape": [1, 2], "float_data": np.frombuffer(numbers, "<f4").tolist()}
    whole = Message(tensors=[tensor], name="m", **more).SerializeToString()
    exact = Message(tensors=[tensor | {"float_data": [0.0] * (len(numbers) // 4)}], name="m", **more)
    written: bytes = exact.SerializeToString().replace(bytes(len(numbers)), numbers, 1)
    assert len(written) == len(whole)
    return written


@pytest.mark.parametrize("parts", BODIES[:5])
def test_only_the_first_of_several_is_read_in_the_ordinary_way(
    parts: tuple[str, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before, usual, after = parts
    for first, second in (("1.5", "2.0"), ("0.1", "3e5"), ("-0.0", "12345678.0")):
        text = usual.replace(usual.strip("[]"), f"{first}, {second.removesuffix('0') if '.' in usual else second}")
        request = web.read_body(known(id=text), f"{before}{text}{after}".encode(), either=True)
        assert (request.id, request.headers, request.timeout_seconds) == (text, [(b"a", b"b")], 1.5)
        assert bytes(request.inputs[0].data) == struct.pack("<2f", float(first), float(second))
        monkeypatch.setattr(web, "_read_anew", None)


def test_a_message_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for numbers in ((1.5, 2.25), (0.1, 3e5), (float("nan"), 1e-45)):
        packed = struct.pack("<2f", *numbers)
        sent = Sent(message(packed, logid=0))
        assert sent.service == "m"
        assert bytes(sent.request(known()).inputs[0].data) == packed
        monkeypatch.setattr(pipeline_message, "parsed", None)


@pytest.mark.parametrize(
    "body",
    [
        '{"key":["x"],"value":["1,2"],"logid":7}',
        '{"key":["x"],"value":["1,2"],"clientip":"::1"}',
        '{"key":["x","pipeline.profile"],"value":["1,2","1"]}',
    ],
)
def test_what_is_of_use_to_one_request_only_is_not_kept(body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = known()
    first = web.read_body(asked, body.encode(), either=True)
    assert web._read_before.find(("m", True), body.encode()) is None
    assert first.headers != asked.headers or first.profiled_since_us


def test_another_model_service_or_kind_of_path_reads_for_itself() -> None:
    body = b'{"key":["x"],"value":["[[1,2]]"],"feed":[{"x":[1,2]}],"fetch":["y"]}'
    old = b'{"feed":[{"x":[1,2]}],"fetch":["y"]}'
    for data in (body, old, body, old):
        assert read(known(), data).form == ("pipeline" if data is body else "prediction")
        assert read(known(), data, either=False) == read_anew(known(), data, either=False)
    assert read(known("bytes"), body).inputs != read(known(), body).inputs
    renamed = replace(SPEC, name="n")
    assert isinstance(request := read(known(spec=renamed), body), WebRequest)
    assert request.model == "n"
