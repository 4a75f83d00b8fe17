"""Classes of messages that have packed numbers as what they are on the wire, bytes.

protobuf gives packed numbers to Python one by one. As bytes, those of floating-point numbers are a tensor's data
already, and numpy reads the others (`varints`).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

from pdserver.dialects.protos import POOL

_STRINGS = (FieldDescriptorProto.TYPE_STRING, FieldDescriptorProto.TYPE_BYTES)


def with_bytes(tensor: str, packed: Collection[str], *names: str) -> list[Any]:
    """The classes of the messages with these full names, in which these fields of the message `tensor` are bytes, a
    piece for each time that they occur on the wire. Numbers that a writer left unpacked are unknown fields to them."""
    pool = DescriptorPool()
    for name in names:
        _add(pool, POOL.FindMessageTypeByName(name).file, tensor, packed)
    return [GetMessageClass(pool.FindMessageTypeByName(name)) for name in names]


def _add(pool: DescriptorPool, described: FileDescriptor, tensor: str, packed: Collection[str]) -> None:
    """Add the file, and before it what it imports."""
    for imported in described.dependencies:
        _add(pool, imported, tensor, packed)
    file = FileDescriptorProto()
    described.CopyToProto(file)
    del file.service[:]
    for message in file.message_type:
        if f"{file.package}.{message.name}" == tensor:
            for field in message.field:
                if field.name in packed and field.type not in _STRINGS:
                    field.type = FieldDescriptorProto.TYPE_BYTES
                    field.options.ClearField("packed")
    pool.AddSerializedFile(file.SerializeToString())
