"""TensorProto in all its forms, against numpy and against protobuf itself."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pdserver.configuration.model import ModelSpec
from pdserver.dialects.protos import message_class
from pdserver.dialects.tensorflow.data_types import DATA_TYPES
from pdserver.dialects.tensorflow.predict_message import cut, cut_inputs, read_filled, read_inputs, whole, write
from pdserver.dialects.tensorflow.request import Asked, ServingRequest
from pdserver.dialects.tensorflow.tensor_proto import FewElements
from pdserver.dtypes import BFLOAT16, BYTES
from pdserver.errors import InvalidRequest
from pdserver.formats.elements import packed, rounded
from pdserver.types import Interface, Port, Reply, Tensor

Message = message_class("tensorflow.serving.PredictRequest")
Response = message_class("tensorflow.serving.PredictResponse")
Proto = message_class("tensorflow.TensorProto")
FIELDS = {
    **{"float32": "float_val", "float64": "double_val", "int64": "int64_val", "bool": "bool_val", BYTES: "string_val"},
    **dict.fromkeys(("int32", "int16", "int8", "uint8", "uint16"), "int_val"),
    **dict.fromkeys(("float16", BFLOAT16), "half_val"),
    **{"uint32": "uint32_val", "uint64": "uint64_val"},
}
MOST_BYTES = 1 << 20
SPEC = ModelSpec(name="m", version="3", url="", directory="", handler="", manifest={}, model_config={})


def asked(dtype: str, rank: int) -> Asked:
    ports = [Port("x", dtype, (-1,) * rank)]
    return Asked(SPEC, Interface(ports, ports, batched=False), [], "id")


def read(message: Any, dtype: str, rank: int) -> Tensor:
    """As the server does, by each of its ways, which agree."""
    data = message if isinstance(message, bytes) else message.SerializeToString()
    how = asked(dtype, rank)
    found: list[Any] = []
    for cutting in (False, True):
        try:
            inputs = cut_inputs(cut(data)[1]) if cutting else None
            inputs = whole(data)[1] if inputs is None else inputs
            request = read_inputs(how, inputs, [])
        except FewElements:
            request = read_filled(how, data, MOST_BYTES)
        [tensor] = request.inputs
        assert isinstance(tensor, Tensor)
        found.append((tensor.name, tensor.dtype, tensor.shape, bytes(tensor.data)))
    assert found[0] == found[1]
    return Tensor(*found[0])


def proto(dtype: str, shape: Any, **fields: Any) -> Any:
    dims = [{"size": length} for length in shape]
    return Proto(dtype=DATA_TYPES[dtype].number, tensor_shape={"dim": dims}, **fields)


def asking(tensor: Any) -> Any:
    return Message(model_spec={"name": "m"}, inputs={"x": tensor})


def elements_of(dtype: str) -> Any:
    if dtype == BYTES:
        return st.binary(max_size=9)
    if dtype == "bool":
        return st.booleans()
    if dtype in ("float16", BFLOAT16):
        return st.integers(0, 2**16 - 1)  # their bits
    if dtype.startswith("float"):
        return st.floats(width=int(dtype[5:]))  # type: ignore[arg-type]
    bounds = np.iinfo(dtype)
    return st.integers(int(bounds.min), int(bounds.max)) | st.sampled_from([0, 1, 127, int(bounds.max)])


def data_of(dtype: str, values: list[Any]) -> bytes:
    """What a `Tensor` with these elements holds."""
    if dtype == BYTES:
        return packed(values)
    return np.array(values, "uint16" if dtype in ("float16", BFLOAT16) else dtype).tobytes()


@pytest.mark.parametrize("dtype", FIELDS)
@given(data=st.data())
@settings(max_examples=20, deadline=None)
def test_typed_lists_and_content_are_what_numpy_says(dtype: str, data: Any) -> None:
    shape = tuple(data.draw(st.lists(st.integers(0, 4), max_size=3)))
    count = math.prod(shape)
    given_values = data.draw(st.lists(elements_of(dtype), max_size=count))
    filler = given_values[-1:] or [b"" if dtype == BYTES else 0]
    expected = data_of(dtype, given_values + filler * (count - len(given_values)))
    message = asking(proto(dtype, shape, **{FIELDS[dtype]: given_values}))
    tensor = read(message, dtype, len(shape))
    assert (tensor.dtype, tensor.shape, tensor.data) == (dtype, shape, expected)
    if dtype != BYTES and count:
        content = asking(proto(dtype, shape, tensor_content=expected))
        assert read(content, dtype, len(shape)).data == expected


@pytest.mark.parametrize("dtype", FIELDS)
@pytest.mark.parametrize("as_content", [False, True])
@given(data=st.data())
@settings(max_examples=10, deadline=None)
def test_answers_are_what_protobuf_reads(dtype: str, as_content: bool, data: Any) -> None:
    shape = tuple(data.draw(st.lists(st.integers(0, 4), max_size=3)))
    values = data.draw(st.lists(elements_of(dtype), min_size=math.prod(shape), max_size=math.prod(shape)))
    held = data_of(dtype, values)
    request = ServingRequest("m", "3.0", "id", [])
    reply = Reply(b"", "", tensors=[Tensor("y", dtype, shape, held), Tensor("z", "float32", (1,), b"\0\0\x80\x3f")])
    written = write(request, reply, as_content=as_content)
    response = Response.FromString(written if isinstance(written, bytes) else b"".join(written))
    spec = response.model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == ("m", 3, "serving_default")
    assert sorted(response.outputs) == ["y", "z"]
    tensor = response.outputs["y"]
    assert (tensor.dtype, tuple(dim.size for dim in tensor.tensor_shape.dim)) == (DATA_TYPES[dtype].number, shape)
    if as_content and dtype != BYTES:
        assert (tensor.tensor_content, list(getattr(tensor, FIELDS[dtype]))) == (held, [])
    else:
        assert data_of(dtype, list(getattr(tensor, FIELDS[dtype]))) == held
    assert (response.outputs["z"].tensor_content == b"\0\0\x80\x3f") is as_content


def test_a_version_that_is_no_number_is_left_out_of_answers() -> None:
    written = write(ServingRequest("m", "1.2", "id", []), Reply(b"", ""), as_content=False)
    assert isinstance(written, bytes)
    assert not Response.FromString(written).model_spec.HasField("version")


def test_numbers_that_are_not_packed() -> None:
    """protobuf takes them, too: a field for each of them."""
    one = b"\x2d\0\0\x80\x3f"  # field 5, four bytes
    tensor = proto("float32", (2, 2), float_val=[2.0, 3.0]).SerializeToString() + one * 2
    entry = b"\x0a\x01x\x12" + bytes([len(tensor)]) + tensor
    data = b"\x12" + bytes([len(entry)]) + entry
    assert np.frombuffer(read(data, "float32", 2).data, "f4").tolist() == [2.0, 3.0, 1.0, 1.0]


def test_a_tensor_in_parts() -> None:
    """protobuf puts them together, also where a message is cut up."""
    parts = [proto("float32", (1, 2)), Proto(float_val=[2.0, 3.0])]
    values = [part.SerializeToString() for part in parts]
    entry = b"\x0a\x01x" + b"".join(b"\x12" + bytes([len(value)]) + value for value in values)
    data = b"\x12" + bytes([len(entry)]) + entry
    assert np.frombuffer(read(data, "float32", 2).data, "f4").tolist() == [2.0, 3.0]


def test_strings_in_content() -> None:
    """Their lengths come first, as varints."""
    texts = [b"", b"x" * 200, b"yz"]
    content = b"\0\xc8\x01\x02" + b"".join(texts)
    assert read(asking(proto(BYTES, (3,), tensor_content=content)), BYTES, 1).data == packed(texts)
    for bad in (content[:-1], content + b"z", b"\xff\xff"):
        with pytest.raises(InvalidRequest, match=r"tensor parsing error: x: tensor_content of .* is not 3 strings"):
            read(asking(proto(BYTES, (3,), tensor_content=bad)), BYTES, 1)


def test_a_number_for_a_row_is_a_row_of_one() -> None:
    """TensorFlow does not compare shapes with signatures, and scalars are sent to models that take rows of one."""
    assert read(asking(proto("float32", (3,), float_val=[1, 2, 5])), "float32", 2).shape == (3, 1)


NO_REPEATED = 2**31 - 1
BAD: dict[str, tuple[Any, str]] = {
    "no dtype": (Proto(tensor_shape={}, float_val=[1]), "x: dtype DT_INVALID is none of DT_FLOAT, DT_DOUBLE, "),
    "complex": (Proto(dtype=8, scomplex_val=[1, 2]), "x: dtype DT_COMPLEX64 is none of DT_FLOAT"),
    "unknown dtype": (Proto(dtype=77), "x: dtype 77 is none of DT_FLOAT"),
    "unknown rank": (Proto(dtype=1, tensor_shape={"unknown_rank": True}), "x: its shape has an unknown rank"),
    "negative": (proto("float32", (-1, 2)), r"x: tensor_shape: shape \[-1,2\] has a negative length"),
    "endless": (proto("float32", (NO_REPEATED, 2)), "x: tensor_shape: shape .* exceed maximum size"),
    "short content": (
        proto("float32", (1, 2), tensor_content=b"1234567"),
        r"x: shape \[1, 2\] of float32 takes 8 bytes; tensor_content has 7",
    ),
    "too many": (
        proto("float32", (1, 2), float_val=[1, 2, 3]),
        r"x: shape \[1, 2\] of float32 takes 8 bytes; float_val has 12",
    ),
    "too many strings": (
        proto(BYTES, (1, 2), string_val=[b"a", b"b", b"c"]),
        "x: string_val has 3 strings, its shape 2",
    ),
    "out of int8": (proto("int8", (1, 2), int_val=[1, 200]), "x: int_val has a number that is not a int8"),
    "out of uint8": (proto("uint8", (1, 2), int_val=[1, -2]), "x: int_val has a number that is not a uint8"),
    "out of half": (proto("float16", (1, 1), half_val=[70000]), "x: half_val has a number that is not a uint16"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_tensors(name: str) -> None:
    tensor, words = BAD[name]
    dtype = next((dtype for dtype, kind in DATA_TYPES.items() if kind.number == tensor.dtype), "float32")
    with pytest.raises(InvalidRequest, match=f"^tensor parsing error: {words}"):
        read(asking(tensor), dtype, len(tensor.tensor_shape.dim))


def test_a_few_bytes_are_not_repeated_without_end() -> None:
    with pytest.raises(FewElements):
        read(asking(proto("float32", (MOST_BYTES, 1), float_val=[1])), "float32", 2)
    with pytest.raises(FewElements):
        read(asking(proto(BYTES, (MOST_BYTES, 1), string_val=[b"abc"])), BYTES, 2)


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_no_bytes_make_more_than_an_error(data: Any) -> None:
    """Whatever is sent: a request, or InvalidRequest; and protobuf finds no message where ours finds one."""
    good = asking(proto("float32", (1, 2), float_val=[1, 2])).SerializeToString()
    sent = bytearray(data.draw(st.just(good) | st.binary(max_size=60)))
    for place, byte in data.draw(st.lists(st.tuples(st.integers(0, 59), st.integers(0, 255)), max_size=4)):
        if place < len(sent):
            sent[place] = byte
    try:
        read(bytes(sent), "float32", 2)
    except InvalidRequest:
        return
    except FewElements:
        pass
    Message.FromString(bytes(sent))


def test_bfloat16_is_what_its_bits_say() -> None:
    bits = rounded(np.array([1.5, -2.0], np.float32)).tolist()
    tensor = read(asking(proto(BFLOAT16, (1, 2), half_val=bits)), BFLOAT16, 2)
    assert tensor.data == np.array(bits, np.uint16).tobytes()
