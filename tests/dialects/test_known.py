"""Messages that were read before: whether a message is known or not, it is read the same, and has the same errors."""

from __future__ import annotations

import dataclasses
import json
import struct
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdserver.configuration.model import ModelSpec
from pdserver.dialects.base import Body
from pdserver.dialects.known import JSON, PACKED, KnownRequests
from pdserver.dialects.oip.inference import read_request
from pdserver.dialects.oip.known import KnownInferences
from pdserver.dialects.paddle import brpc_json, general, message
from pdserver.dialects.paddle.brpc_json import read_json
from pdserver.dialects.paddle.message import read_message
from pdserver.dialects.paddle.request import Asked, GeneralRequest
from pdserver.engine.catalogue import ServedVersion
from pdserver.engine.lifecycle import VersionState
from pdserver.errors import InvalidRequest
from pdserver.types import Interface, Port, Request, Tensor
from tests.dialects.paddle.tensors import Request as Message

DTYPES = {"float32": (1, "float_data"), "float64": (3, "float64_data"), "int64": (0, "int64_data"),
          "int32": (2, "int_data"), "bool": (9, "bool_data")}  # fmt: skip
SPEC = ModelSpec(name="m", version="1", url="", directory="", handler="", manifest={}, model_config={}, batch_size=8)
INTERFACES = {dtype: Interface([Port("x", dtype, (-1, 2))], [Port("y", dtype, (-1, 1))], True) for dtype in DTYPES}
USUAL = dict.fromkeys(DTYPES, "[3,4]") | {"bool": "[true,false]"}


def around(dtype: str, turn: int = 0, **more: Any) -> tuple[str, str]:
    """What is before and after the numbers of a request in JSON; `turn` says how many fields are before them."""
    number, field = DTYPES[dtype]
    fields = [f'"elem_type":{number}', '"alias_name":"x"', '"shape":[1,2]']
    rest = "".join(f",{json.dumps(name)}:{json.dumps(value)}" for name, value in more.items())
    before = "".join(f"{each}," for each in fields[:turn])
    return f'{{"tensor":[{{{before}"{field}":', "".join(f",{each}" for each in fields[turn:]) + f"}}]{rest}}}"


@pytest.fixture
def caches(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    def emptied() -> None:
        monkeypatch.setattr(general, "_known_json", KnownRequests(brpc_json.numbers_of, JSON))
        monkeypatch.setattr(general, "_known_messages", KnownRequests(message.numbers_of, PACKED))

    emptied()
    return emptied


@pytest.fixture
def read_at_all(caches: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The bodies that were read in the ordinary way."""
    bodies: list[bytes] = []

    def noted(read: Any) -> Any:
        def reading(asked: Asked, data: bytes) -> GeneralRequest:
            bodies.append(data)
            return read(asked, data)  # type: ignore[no-any-return]

        return reading

    monkeypatch.setattr(general, "read_json", noted(read_json))
    monkeypatch.setattr(general, "read_message", noted(read_message))
    return bodies


def asked(dtype: str = "float32", *, in_json: bool = True, spec: ModelSpec = SPEC) -> Asked:
    return Asked(spec, INTERFACES[dtype], [(b"a", b"b")], "id", in_json, b"gzip", 1.5, began_us=7)


def outcome(read: Any, asked: Asked, body: bytes) -> Any:
    """The request, or the error's text."""
    try:
        return read(asked, body)
    except InvalidRequest as error:
        return str(error)


NUMBERS = st.one_of(
    st.integers(-5, 5).map(str), st.integers().map(str), st.floats().map(json.dumps), st.floats(width=32).map(repr),
    st.sampled_from(
        ["1e39", "-1e400", "0.1", "-0", "-0.0", "1E2", "1e-50", "16777217", "3.4028235677973366e+38", "1.0", "01", "1.",
         "true", "false", "null", '"NaN"', '"Infinity"', "NaN", "9223372036854775808", "2147483648", "1" * 400, "[1]"]
    ),
)  # fmt: skip
SPACES = st.sampled_from(["", "", "", " ", "\n\t", "\xa0"])


@st.composite
def texts(draw: Any) -> str:
    """What may stand where a list of two numbers is expected."""
    pieces = draw(st.lists(NUMBERS, min_size=1, max_size=3))
    gaps = [draw(SPACES) for _ in range(4)]
    text = f"{gaps[0]}[{gaps[1]}{(gaps[2] + ',').join(pieces)}]{gaps[3]}"
    odd = st.sampled_from(
        ["[{}]", "{}]", "[{}", "{},[1,2]", '{},"float_data":[3,4]', '{}}}],"tensor":[{{', "1", "", "{{}}"]
    )
    return draw(odd).format(text) if draw(st.integers(0, 3)) == 0 else text


@pytest.mark.parametrize("dtype", DTYPES)
@given(text=texts(), turn=st.integers(0, 3))
def test_numbers_in_json_are_read_as_ever(dtype: str, text: str, turn: int) -> None:
    before, after = around(dtype, turn)
    usual, body = f"{before}{USUAL[dtype]}{after}".encode(), f"{before}{text}{after}".encode()
    general.read(asked(dtype), usual)
    for _ in range(2):
        assert outcome(general.read, asked(dtype), body) == outcome(read_json, asked(dtype), body)
        assert outcome(general.read, asked(dtype), usual) == outcome(read_json, asked(dtype), usual)


def packed(data: bytes, **more: Any) -> bytes:
    """Numbers of float32."""
    tensor: dict[str, Any] = {"elem_type": 1, "alias_name": "x", "shape": [1, 2]}
    whole = Message(tensor=[tensor | {"float_data": [0.0] * (len(data) // 4)}], **more).SerializeToString()
    return bytes(whole.replace(bytes(len(data)), data, 1))


@given(data=st.binary(min_size=8, max_size=8), cut=st.integers(-3, 3), extra=st.binary(max_size=3))
def test_numbers_in_messages_are_read_as_ever(data: bytes, cut: int, extra: bytes) -> None:
    usual, whole = packed(struct.pack("<2f", 1, 2)), packed(data)
    general.read(asked(in_json=False), usual)
    place = whole.find(data) + 4
    for body in (whole, whole[:place] + extra + whole[place + cut :], packed(data[:4]), packed(data * 2)):
        for _ in range(2):
            assert outcome(general.read, asked(in_json=False), body) == outcome(
                read_message, asked(in_json=False), body
            )


@pytest.mark.parametrize("given", [b"\x02\x00", b"\x80\x01", b"\x01\x80"])
def test_truths_in_messages_are_read_as_ever(given: bytes) -> None:
    """Zeros and ones are the same as varints and in memory, but no other numbers are."""
    usual = Message(tensor=[{"elem_type": 9, "alias_name": "x", "shape": [1, 2], "bool_data": [True, False]}])
    data = usual.SerializeToString()
    body = data.replace(b"\x01\x00", given)
    assert body != data
    general.read(asked("bool", in_json=False), data)
    ordinary = outcome(read_message, asked("bool", in_json=False), body)
    assert outcome(general.read, asked("bool", in_json=False), body) == ordinary


def test_only_the_first_of_several_is_read_in_the_ordinary_way(read_at_all: list[bytes]) -> None:
    before, after = around("float32", fetch_var_names=["y"])
    bodies = [f"{before}{text}{after}".encode() for text in ("[1,2]", "[0.1, 3e5]", "[-0.0,12345678.9]")]
    for number, body in enumerate(bodies):
        found = general.read(msgspec.structs.replace(asked(), request_id=f"id {number}"), body)
        assert (found.id, found.headers, found.accepts, found.timeout_seconds) == (
            f"id {number}",
            [(b"a", b"b")],
            b"gzip",
            1.5,
        )
        assert bytes(found.inputs[0].data) == struct.pack("<2f", *json.loads(body)["tensor"][0]["float_data"])
        assert [output.name for output in found.outputs] == ["y"]
    assert read_at_all == bodies[:1]
    messages = [packed(struct.pack("<2f", *pair)) for pair in ((1, 2), (0, 0), (1e-45, float("nan")))]
    for body in messages:
        assert bytes(general.read(asked(in_json=False), body).inputs[0].data) in body
    assert read_at_all == [*bodies[:1], *messages[:1]]


def test_what_only_one_request_has_is_not_kept(read_at_all: list[bytes]) -> None:
    before, after = around("float32", log_id=7)
    body = f"{before}[1,2]{after}".encode()
    message = packed(struct.pack("<2f", 1, 2), log_id=7)
    for _ in range(2):
        assert general.read(asked(), body).log_id == 7
        assert general.read(asked(in_json=False), message).log_id == 7
    assert read_at_all == [body, message] * 2


def test_two_texts_alike_are_not_mixed_up(read_at_all: list[bytes]) -> None:
    """The first `[1,2]` is the shape, or a list that a second one with its name replaces, or is of another field."""
    turned = '{"tensor":[{"shape":[1,2],"float_data":[%s],"elem_type":1}]}'
    twice = '{"tensor":[{"float_data":[%s],"float_data":[1,2],"elem_type":1,"shape":[1,2]}]}'
    other = '{"tensor":[{"int_data":[%s],"float_data":[1,2],"elem_type":1,"shape":[1,2]}]}'
    for form in (turned, twice, other):
        for numbers in ("1,2", "3,4", "3,4", "1,2"):
            body = (form % numbers).encode()
            assert general.read(asked(), body) == read_json(asked(), body)


def test_what_was_checked_against_another_model_does_not_count(read_at_all: list[bytes]) -> None:
    """The message is the same; the model has other inputs, or takes fewer rows, or only looks the same."""
    before, after = around("float32")
    body = f"{before}[1,2]{after}".encode()
    general.read(asked(), body)
    assert "elem_type is 1 (float32), the model takes 0 (int64)" in outcome(general.read, asked("int64"), body)
    narrow = Interface([Port("x", "float32", (-1, 1))], [], batched=True)
    assert "unexpected shape" in outcome(general.read, msgspec.structs.replace(asked(), interface=narrow), body)
    assert general.read(asked(), body) == read_json(asked(), body)
    like = ModelSpec(
        name="m", version="1", url="", directory="", handler="", manifest={}, model_config={}, batch_size=8
    )
    count = len(read_at_all)
    general.read(asked(spec=like), body)
    general.read(asked(spec=like), body)
    assert len(read_at_all) == count + 1


# Open Inference's JSON

OIP = {"FP32": "float32", "FP64": "float64", "INT64": "int64", "INT32": "int32", "BOOL": "bool"}


def served(dtype: str, spec: ModelSpec = SPEC) -> ServedVersion:
    return ServedVersion(spec, INTERFACES[dtype], VersionState.READY, 1, 1, None, "")


def inference(body: bytes, dtype: str) -> Any:
    """The request as it is read in the ordinary way, or the error's text."""
    try:
        return read_request(SPEC, INTERFACES[dtype], HEADERS, Body(body), None, "id", b"gzip")
    except InvalidRequest as error:
        return str(error)


HEADERS = [(b"a", b"b")]


@pytest.mark.parametrize(("datatype", "dtype"), OIP.items())
@given(text=texts(), turn=st.integers(0, 3), nested=st.booleans())
def test_inferences_are_read_as_ever(datatype: str, dtype: str, text: str, turn: int, nested: bool) -> None:
    cache = KnownInferences()
    fields = ['"name":"x"', f'"datatype":"{datatype}"', '"shape":[1,2]']
    before = '{"inputs":[{' + "".join(f"{field}," for field in fields[:turn]) + '"data":'
    after = "".join(f",{field}" for field in fields[turn:]) + '}],"outputs":[{"name":"y"}]}'
    usual = f"[{USUAL[dtype]}]" if nested else USUAL[dtype]
    for numbers in (usual, text, usual, f"[{text}]", usual):
        body = f"{before}{numbers}{after}".encode()
        given, ordinary = served(dtype), inference(body, dtype)
        found = cache.find(given, HEADERS, body, None, "id", b"gzip")
        assert found is None or found == ordinary
        if found is None and not isinstance(ordinary, str):
            cache.learn(given, HEADERS, body, None, ordinary)
    assert cache.find(served(dtype), HEADERS, body, None, "id", b"gzip") == inference(body, dtype)
    other = dataclasses.replace(SPEC)
    assert cache.find(served(dtype, other), HEADERS, body, None, "id", b"gzip") is None


def test_inferences_with_something_of_their_own_are_not_kept() -> None:
    cache = KnownInferences()
    for more in ('"id":"1"', '"parameters":{"timeout":5}', '"parameters":{"mine":1}', '"parameters":{"sequence_id":1}'):
        body = ('{"inputs":[{"name":"x","datatype":"FP32","shape":[1,2],"data":[1,2]}],' + more + "}").encode()
        cache.learn(served("float32"), HEADERS, body, None, inference(body, "float32"))
        assert cache.find(served("float32"), HEADERS, body, None, "id", b"") is None


# The mechanism


def usual(number: int) -> bytes:
    return b"%d:[1,2]" % number


def numbers_of(data: bytes) -> bytes:
    return data.partition(b":")[2]


def learned(cache: KnownRequests[Request], data: bytes, key: object = "m") -> bool:
    """Whether it was known; it is given to be learned then, if not."""
    known = cache.find(key, data)
    if known is None:
        request = Request("m", "1", "id", [Tensor("x", "float32", (1, 2), struct.pack("<2f", 1, 2))])
        cache.learn(key, data, SPEC, INTERFACES["float32"], request)
    return known is not None


def test_those_that_come_again_stay_while_many_others_pass() -> None:
    cache: KnownRequests[Request] = KnownRequests(numbers_of, JSON)
    assert not learned(cache, usual(0))
    found = 0
    for number in range(1, 200):
        found += learned(cache, usual(0))
        learned(cache, usual(number))
    assert found == 199
    for key in range(2000):
        learned(cache, usual(0), key)
    assert sum(len(each) for each in cache._known.values()) < 2000


def test_long_messages_are_not_kept() -> None:
    cache: KnownRequests[Request] = KnownRequests(numbers_of, JSON)
    for data in (b" " * 3000 + usual(1), b"a:[1" + b" " * 70_000 + b",2]"):
        assert not learned(cache, data)
        assert not learned(cache, data)


def test_rows_of_other_lengths_are_left_to_the_ordinary_way() -> None:
    like = Tensor("x", "int64", (2, 2), struct.pack("<4q", 1, 2, 3, 4))
    read = JSON.reader(like, b"[[1,2],[3,4]]", 2, 0)
    assert read is not None
    for text, values in (
        (b"[[5,6],[7,8]]", (5, 6, 7, 8)),
        (b"[[5],[6,7,8]]", None),
        (b"[5,6,7,8]", None),
        (b"[]", None),
    ):
        assert read(b"x:" + text) == (
            None if values is None else [msgspec.structs.replace(like, data=struct.pack("<4q", *values))]
        )
