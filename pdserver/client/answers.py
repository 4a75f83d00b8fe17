"""How the server describes itself and its models."""

from __future__ import annotations

import msgspec


class TensorMetadata(msgspec.Struct, frozen=True):
    """An input or an output of a model."""

    name: str
    datatype: str
    """"FP32", "INT64", "BYTES", …"""
    shape: list[int]
    """-1 stands for any length. The first is the batch, if the model has one."""
    parameters: dict[str, bool | int | float | str] = {}
    """`optional`: a request may leave this input out. `any_rank`: it may have any number of axes; `shape` is [-1]."""


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
