"""What a client sends and what a node answers → values."""

from __future__ import annotations

from typing import Literal

import pytest

from pdarchiver.pipeline.graph import ANY, Type
from pdserver.configuration.model import ModelSpec
from pdserver.errors import HandlerFailed, InvalidRequest
from pdserver.formats.elements import packed
from pdserver.memory_file import MemoryFile
from pdserver.pipeline.asking import to_code
from pdserver.pipeline.files import element
from pdserver.pipeline.values import Item, check_size, numbers
from pdserver.types import Part, Request, Tensor, Values

SPEC = ModelSpec(
    name="p:find", version="1", url="", directory="", handler="", manifest={}, model_config={}, min_workers=1,
    max_workers=1,
)  # fmt: skip


@pytest.mark.parametrize(
    ("outputs", "answered", "refusal"),
    [
        (("boxes", "turned"), ("boxes", "turned"), ""),
        (("boxes", "turned"), ("boxes",), ""),
        (("boxes",), ("boxes", "more"), ""),
        ((), ("anything",), ""),
        (
            ("boxes", "turned"),
            ("boxs", "turned"),
            'it answered "boxs", which is none of its outputs, and not "boxes"; did you mean boxes?',
        ),
    ],
)
def test_a_slip_in_the_name_of_an_output_is_told(
    outputs: tuple[str, ...], answered: tuple[str, ...], refusal: str
) -> None:
    question = to_code({}, SPEC, Request("p", None, "", []), dict.fromkeys(outputs, ANY))
    reply = Values(b"", "", parts=[Part(name, "", b"") for name in answered])
    if not refusal:
        assert tuple(question.values(reply)) == answered
        return
    with pytest.raises(HandlerFailed) as raised:
        question.values(reply)
    assert str(raised.value) == refusal


@pytest.mark.parametrize(("kind", "is_json"), [("json", True), ("list", False), ("any", False)])
def test_an_empty_list_is_what_the_output_is_declared_to_be(
    kind: Literal["json", "list", "any"], is_json: bool
) -> None:
    question = to_code({}, SPEC, Request("p", None, "", []), {"prices": Type(kind)})
    [found] = question.values(Values(b"", "", lists={"prices": 0})).values()
    assert (isinstance(found, Item) and bytes(found.data) == b"[]") is is_json
    assert (found == []) is not is_json


@pytest.mark.parametrize("data", [packed([b"picture"]), packed([b""])])
def test_a_single_element_stays_in_its_file(data: bytes) -> None:
    wanted = data[4:]
    small = element(Item(Tensor("x", "bytes", (1,), data)), "page", "image/png")
    assert small.given == Part("page", "image/png", wanted)
    file = MemoryFile([b"before", data, b"after"])
    large = Item(Tensor("x", "bytes", (1,), b"", 0, 6, len(data)), file.seal(), file)
    found = element(large, "page", "image/png")
    assert (found.fd, found.owner, found.given.file, found.data) == (file.fd, file, 0, wanted)


@pytest.mark.parametrize("data", [b"", b"abc", b"\x01\0\0\0", b"\x01\0\0\0ab", packed([b"a", b"b"])])
def test_data_that_are_not_one_element_are_refused(data: bytes) -> None:
    file = MemoryFile([data])
    inline = Item(Tensor("x", "bytes", (1,), data))
    beside = Item(Tensor("x", "bytes", (1,), b"", 0, 0, len(data)), file.seal(), file)
    for one in (inline, beside):
        with pytest.raises(InvalidRequest, match=f'input "x": {len(data)} bytes are not one element behind its length'):
            element(one, "page", "")


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        ([1.5], "int64"),
        ([300], "uint8"),
        ([-1], "uint8"),
        (2**63, "int64"),
        ([1e300], "float32"),
        (["1"], "float32"),
        ([None], "float32"),
        ({"a": 1}, "float32"),
        ([1], "bool"),
        ([1], "bytes"),
    ],
)
def test_numbers_that_a_dtype_does_not_have_are_refused(value: object, dtype: str) -> None:
    with pytest.raises(ValueError, match=r"no |expected"):
        numbers(value, dtype)


@pytest.mark.parametrize(
    ("value", "dtype"), [([1, 2], "float32"), ([], "int64"), ([True], "bool"), (2**53 + 1, "int64"), ([2.0], "int8")]
)
def test_numbers_that_it_has_are_taken_as_they_are(value: object, dtype: str) -> None:
    found = numbers(value, dtype)
    assert (found.dtype.name, found.tolist()) == (dtype, value)


@pytest.mark.parametrize("count", [2_000_000, 2_000_001])
def test_json_that_would_hold_up_the_event_loop_is_refused(count: int) -> None:
    data = b"[" + b"1," * (count - 1) + b"1]"
    if count == 2_000_000:
        check_size(data)
        return
    with pytest.raises(InvalidRequest, match="2,000,000 can be taken apart"):
        check_size(data)
