"""The protobuf messages in Paddle's own files, as far as they are read or written here.

Sources: paddle/fluid/framework/framework.proto for models and weights, general_model_config.proto of Paddle Serving.
Fields that are not listed here are passed over, so that files of later versions can be read.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from google.protobuf import message_factory, text_format
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError

_MESSAGES = {
    "ProgramDesc": {"blocks": (1, "repeated BlockDesc"), "version": (4, "optional Version")},
    "Version": {"version": (1, "optional int64")},
    "BlockDesc": {"vars": (3, "repeated VarDesc"), "ops": (4, "repeated OpDesc")},
    "VarDesc": {"name": (1, "required string"), "type": (2, "required VarType"), "persistable": (3, "optional bool")},
    "VarType": {"type": (1, "required int32"), "dense_tensor": (3, "optional DenseTensorDesc")},
    "DenseTensorDesc": {"tensor": (1, "required TensorDesc"), "lod_level": (2, "optional int32")},
    "TensorDesc": {"data_type": (1, "required int32"), "dims": (2, "repeated int64")},
    "OpDesc": {
        "inputs": (1, "repeated OpVar"),
        "outputs": (2, "repeated OpVar"),
        "type": (3, "required string"),
        "attrs": (4, "repeated OpAttr"),
    },
    "OpVar": {"parameter": (1, "required string"), "arguments": (2, "repeated string")},
    "OpAttr": {
        "name": (1, "required string"),
        "type": (2, "required int32"),
        "i": (3, "optional int32"),
        "s": (5, "optional string"),
        "ints": (6, "repeated int32"),
        "b": (10, "optional bool"),
        "l": (13, "optional int64"),
        "longs": (15, "repeated int64"),
    },
    "GeneralModelConfig": {"feed_var": (1, "repeated FeedVar"), "fetch_var": (2, "repeated FetchVar")},
    "FeedVar": {
        "name": (1, "optional string"),
        "alias_name": (2, "optional string"),
        "is_lod_tensor": (3, "optional bool"),
        "feed_type": (4, "optional int32"),
        "shape": (5, "repeated int32"),
    },
    "FetchVar": {
        "name": (1, "optional string"),
        "alias_name": (2, "optional string"),
        "is_lod_tensor": (3, "optional bool"),
        "fetch_type": (4, "optional int32"),
        "shape": (5, "repeated int32"),
    },
}
"""Enums are numbers here: protobuf would pass over a value that it does not know."""
_MAX_BYTES = 128 * 1024 * 1024
"""protobuf makes up to 30 bytes in memory of each byte. The files of the largest models have some tens of megabytes."""


def decode(name: str, data: bytes) -> Any:
    """The message `name` in the wire format. Raises ValueError for bytes that are none, or too many."""
    if len(data) > _MAX_BYTES:
        raise ValueError(f"{len(data):,} bytes; at most {_MAX_BYTES:,} are read")
    try:
        return _class(name).FromString(data)
    except DecodeError:
        raise ValueError(f"no {name}") from None


def decode_text(name: str, text: str) -> Any:
    """The message `name` in protobuf's text format. Raises ValueError, with the line, for text that is none."""
    try:
        return text_format.Parse(text, _class(name)(), allow_unknown_field=True)
    except text_format.ParseError as error:
        raise ValueError(f"line {error}") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None


def new(name: str) -> Any:
    """An empty message `name`."""
    return _class(name)()


def encode_text(message: Any) -> str:
    """The message in protobuf's text format."""
    return text_format.MessageToString(message)


@cache
def _class(name: str) -> Any:
    descriptor = _pool().FindMessageTypeByName(f"paddle.{name}")
    factory: Any = message_factory
    if hasattr(factory, "GetMessageClass"):
        return factory.GetMessageClass(descriptor)
    # Workers in a model's own environment may have a protobuf before 4.22, as Paddle allows.
    return factory.MessageFactory().GetPrototype(descriptor)


@cache
def _pool() -> DescriptorPool:
    """A pool of its own: Paddle's Python package describes messages of the same file in the one for all."""
    file = FileDescriptorProto(name="paddle.proto", package="paddle", syntax="proto2")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field_name, (number, declared) in fields.items():
            label, kind = declared.split()
            field = message.field.add(name=field_name, number=number)
            field.label = FieldDescriptorProto.Label.Value(f"LABEL_{label.upper()}")
            if kind in _MESSAGES:
                field.type_name = f".paddle.{kind}"
            else:
                field.type = FieldDescriptorProto.Type.Value(f"TYPE_{kind.upper()}")
    pool = DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return pool
