"""The gRPC messages of the Open Inference Protocol: the same as Triton's, and read without copying tensors."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from tritonclient.grpc import model_config_pb2, service_pb2

from pdserver.dialects.oip import grpc_wire
from pdserver.dialects.oip.grpc import NAME
from pdserver.dialects.protos import POOL
from pdserver.dialects.rpc import Answer
from pdserver.errors import InvalidRequest
from pdserver.grpc.messages import framed


@pytest.mark.parametrize(
    ("name", "theirs"), [("model_config.proto", model_config_pb2), ("open_inference.proto", service_pb2)]
)
def test_the_messages_are_tritons(name: str, theirs: Any) -> None:
    ours = FileDescriptorProto()
    POOL.FindFileByName(name).CopyToProto(ours)
    known = FileDescriptorProto.FromString(theirs.DESCRIPTOR.serialized_pb)
    messages = {message.name: message for message in ours.message_type}
    assert {message.name for message in known.message_type} <= set(messages)
    for message in known.message_type:
        compare(messages[message.name], message)


def compare(ours: Any, theirs: Any) -> None:
    """Everything of theirs is ours, too; ours may have more, for it may be the newer."""
    fields, known = ({f.name: (f.number, f.type, f.label) for f in message.field} for message in (ours, theirs))
    assert known.items() <= fields.items(), ours.name
    more = {number for name, (number, _, _) in fields.items() if name not in known}
    assert not more & {number for number, _, _ in known.values()}, ours.name
    enums = {enum.name: {value.name: value.number for value in enum.value} for enum in ours.enum_type}
    for enum in theirs.enum_type:
        assert {value.name: value.number for value in enum.value} == enums[enum.name]
    nested = {message.name: message for message in ours.nested_type}
    for message in theirs.nested_type:
        compare(nested[message.name], message)


def test_the_methods_are_tritons() -> None:
    theirs, ours = (
        {method.name for method in service.methods}
        for service in (service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"], POOL.FindServiceByName(NAME))
    )
    assert theirs == ours


@pytest.mark.parametrize("size", [300, 300_000])
def test_raw_contents_are_cut_out_and_put_in_wherever_they_are(size: int) -> None:
    request = service_pb2.ModelInferRequest(model_name="m", id="i", raw_input_contents=[b"", b"a" * size])
    data = request.SerializeToString() + service_pb2.ModelInferRequest(model_version="2").SerializeToString()
    # A field of each other kind that nobody knows yet.
    data += b"\xf8\x07\x96\x01" + b"\xf9\x07" + bytes(8) + b"\xfd\x07" + bytes(4)
    found = grpc_wire.cut(data)
    message = found.message()
    for read in (found.model, found.version, found.id), (message.model_name, message.model_version, message.id):
        assert read == ("m", "2", "i")
    assert [bytes(piece) for piece in found.raw] == [b"", b"a" * size] == grpc_wire.whole(data).raw_input_contents
    assert not message.raw_input_contents
    assert found.rest_bytes < 100
    joined = grpc_wire.join(service_pb2.ModelInferResponse(id="i").SerializeToString(), [b"", b"b" * size])
    assert isinstance(joined, bytes) == (size < 64 * 1024), "large ones are left in pieces"
    assert service_pb2.ModelInferResponse.FromString(sent(joined)).raw_output_contents == [b"", b"b" * size]
    streamed = service_pb2.ModelStreamInferResponse.FromString(sent(grpc_wire.streamed(joined)))
    assert streamed.infer_response.id == "i"
    assert streamed.infer_response.raw_output_contents == [b"", b"b" * size]


def sent(answer: Answer) -> bytes:
    prefix, *pieces = framed(answer)
    data = b"".join(pieces)
    assert prefix == b"\0" + len(data).to_bytes(4, "big")
    return data


LARGE = b"\x0a\x80\x80\x02" + b"m" * 32768
"""What makes a message one that is cut."""


@pytest.mark.parametrize("before", [b"", LARGE])
@pytest.mark.parametrize("data", [b"\x3a", b"\x3a\x05abcd", b"\x3a\xff", b"\xff" * 20, b"\x0b", b"\x0a\x02\xff\xff"])
def test_what_is_no_message_is_refused(data: bytes, before: bytes) -> None:
    data = before + data
    for read in (grpc_wire.whole, grpc_wire.cut):
        with pytest.raises(InvalidRequest, match=r"not a inference\.ModelInferRequest"):
            read(data)
    assert grpc_wire.id_of(data) == ""


def test_more_fields_than_are_looked_at_are_refused() -> None:
    data = b"\x3a\x00" * 4096
    assert len(grpc_wire.cut(data).raw) == 4096
    with pytest.raises(InvalidRequest, match="more than 4,096 fields"):
        grpc_wire.cut(data + b"\x3a\x00")
