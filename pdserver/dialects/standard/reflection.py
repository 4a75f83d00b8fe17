"""grpc.reflection: what services there are, and their .proto files' content; v1, and v1alpha, which says the same.

Source: https://github.com/grpc/grpc/blob/master/doc/server-reflection.md
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from typing import Any

from google.protobuf.descriptor import FileDescriptor

from pdserver.dialects.protos import POOL, decode, message_class
from pdserver.dialects.rpc import BidiStreaming, Code, Message, RpcCall, Service
from pdserver.security.access import Need

NAMES = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")
# Messages of the two versions are the same bytes.
_Request = message_class("grpc.reflection.v1.ServerReflectionRequest")
_Response = message_class("grpc.reflection.v1.ServerReflectionResponse")


class Reflection:
    def __init__(self, services: Iterable[str]) -> None:
        self._services = sorted([*services, *NAMES])

    def services(self, need: Need) -> list[Service]:
        return [Service(name, {"ServerReflectionInfo": BidiStreaming(self.info, need)}) for name in NAMES]

    async def info(self, questions: AsyncIterator[Message], _: RpcCall) -> AsyncGenerator[bytes, None]:
        async for data in questions:
            question = decode(_Request, data)
            answer = _Response(valid_host=question.host, original_request=question)
            try:
                self._answer(question, answer)
            except KeyError as unknown:
                answer.error_response.error_code = Code.NOT_FOUND
                answer.error_response.error_message = f"not known here: {unknown}"
            yield answer.SerializeToString()

    def _answer(self, question: Any, answer: Any) -> None:
        """Raises KeyError for what is not known."""
        asked = question.WhichOneof("message_request")
        if asked == "list_services":
            for name in self._services:
                answer.list_services_response.service.add(name=name)
        elif asked == "file_by_filename":
            _describe(POOL.FindFileByName(question.file_by_filename), answer)
        elif asked == "file_containing_symbol":
            _describe(_file_of(question.file_containing_symbol), answer)
        elif asked == "all_extension_numbers_of_type":
            name = question.all_extension_numbers_of_type
            POOL.FindMessageTypeByName(name)
            answer.all_extension_numbers_response.base_type_name = name  # it has none: proto3
        elif asked == "file_containing_extension":
            raise KeyError(question.file_containing_extension.containing_type)
        else:
            answer.error_response.error_code = Code.INVALID_ARGUMENT
            answer.error_response.error_message = "the request asks nothing"


def _file_of(symbol: str) -> FileDescriptor:
    """Raises KeyError. Not every version of protobuf finds methods by such a name, nor doubts those that are none."""
    parent, _, name = symbol.rpartition(".")
    try:
        service = POOL.FindServiceByName(parent)
    except KeyError:
        return POOL.FindFileContainingSymbol(symbol)
    return service.methods_by_name[name].containing_service.file


def _describe(file: FileDescriptor, answer: Any) -> None:
    """The file, and all that it imports."""
    wanted, named = [file], {file.name}
    for file in wanted:
        answer.file_descriptor_response.file_descriptor_proto.append(file.serialized_pb)
        for imported in file.dependencies:
            if imported.name not in named:
                named.add(imported.name)
                wanted.append(imported)
