"""What the server says of itself and of its models."""

from __future__ import annotations

import msgspec


class TensorMetadata(msgspec.Struct, frozen=True):
    """An input or an output of a model."""

    name: str
    datatype: str
    """"FP32", "INT64", "BYTES", …"""
    shape: list[int]
    """-1 is any size; the first is the batch where the model has one."""


class ModelMetadata(msgspec.Struct, frozen=True):
    name: str
    versions: list[str] = []
    platform: str = ""
    inputs: list[TensorMetadata] = []
    outputs: list[TensorMetadata] = []


class ServerMetadata(msgspec.Struct, frozen=True):
    name: str
    version: str
    extensions: list[str] = []
