"""What others than this project read in the bytes of a model: Google's protobuf and Python's JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError


def _program_class() -> Any:
    """As much of Paddle's framework.proto as says what the operations are. Types are bytes: a mutant's are no text."""
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="programs.proto", package="programs", syntax="proto2")
    for name, number, label, kind in (
        ("Operation", 3, field.LABEL_OPTIONAL, ""),
        ("Block", 4, field.LABEL_REPEATED, ".programs.Operation"),
        ("Program", 1, field.LABEL_REPEATED, ".programs.Block"),
    ):
        of_type = field.TYPE_MESSAGE if kind else field.TYPE_BYTES
        file.message_type.add(name=name).field.add(
            name="value", number=number, label=label, type=of_type, type_name=kind or None
        )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("programs.Program"))


_Program = _program_class()


def types(data: bytes) -> Iterator[str]:
    """Of the operations, by whatever reading there is one."""
    try:
        program = _Program.FromString(data)
    except DecodeError:
        pass
    else:
        yield from (operation.value.decode("latin-1") for block in program.value for operation in block.value)
    try:
        model = json.loads(data.removeprefix(b"\xef\xbb\xbf"))
    except (ValueError, RecursionError):
        return
    if isinstance(model, dict) and "base_code" in model:
        yield from (kind.partition(".")[2] for kind in _kinds(model) if kind.partition(".")[0] in ("1", "pd_op"))


def _kinds(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("#"), str):
            yield value["#"]
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from _kinds(each)
