"""The messages of the gRPC services, as the .proto files of this folder describe them.

`descriptors.binpb` is what protoc makes of those files (`make protos`); the classes are made of it at import. Python
code from protoc would ask for protobuf of its own protoc's version or later, where packages that are installed beside
the server may ask for an earlier one, and it would share the names of `google.rpc` and `grpc.health` with whichever of
them describe these, too. Descriptors go with every version, and these have a pool for themselves.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from pdserver.errors import InvalidRequest

FOLDER = Path(__file__).parent
POOL = DescriptorPool()
for _file in FileDescriptorSet.FromString((FOLDER / "descriptors.binpb").read_bytes()).file:
    POOL.AddSerializedFile(_file.SerializeToString())


def message_class(name: str) -> Any:
    """The class of the messages with this full name."""
    return GetMessageClass(POOL.FindMessageTypeByName(name))


def decode(message_class: Any, data: bytes | memoryview) -> Any:
    """A message of the class. Raises InvalidRequest."""
    try:
        return message_class.FromString(data)
    except DecodeError:
        raise InvalidRequest(f"what was sent is not a {message_class.DESCRIPTOR.full_name}") from None
