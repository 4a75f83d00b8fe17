"""Triton's model configuration, the message `inference.ModelConfig`: from text or JSON, to JSON.

Source of the fields' names and numbers: common/protobuf/model_config.proto of Triton Inference Server.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import json_format

from pdserver.dialects.protos import message_class
from pdserver.dialects.protos.text import check_size, parse
from pdserver.dtypes import BYTES, DATATYPES
from pdserver.errors import ConfigError
from pdserver.formats.values import shown

ModelConfig = message_class("inference.ModelConfig")
DATA_TYPES = {dtype: f"TYPE_{'STRING' if dtype == BYTES else datatype}" for dtype, datatype in DATATYPES.items()}
"""The dtype of tensors here → Triton's data type."""
DTYPES = {name: dtype for dtype, name in DATA_TYPES.items()}


def from_text(text: str, where: str) -> Any:
    """Read a message from protobuf's text format (config.pbtxt). Raises ConfigError with the line and column."""
    return parse(text, ModelConfig, where)


def from_json(text: str, where: str) -> Any:
    """Read a message from JSON, as protobuf maps it: 64-bit numbers may be texts. Raises ConfigError."""
    check_size(text, where)
    if not text.lstrip().startswith("{"):  # protobuf would accept an empty list as an empty message
        raise ConfigError(f"{where}: expected a JSON object")
    try:
        return json_format.Parse(text, ModelConfig())
    except json_format.ParseError as error:
        raise ConfigError(f"{where}: {shown(str(error))}") from None
    except RecursionError:
        raise ConfigError(f"{where}: nested too deeply") from None


def as_json(message: Any) -> dict[str, Any]:
    """The configuration as Triton prints it: original names, default values, 64-bit integers as numbers, enums by name.

    Messages that are not set are left out: clients take the mere presence of `sequence_batching` for a yes.
    """
    found: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            of = field.message_type.fields_by_name["value"]
            found[field.name] = {str(key): _plain(of, value[key]) for key in value}
        elif hasattr(value, "append"):
            found[field.name] = [_plain(field, item) for item in value]
        elif (field.message_type is None and field.containing_oneof is None) or message.HasField(field.name):
            found[field.name] = _plain(field, value)
    return found


def _plain(field: Any, value: Any) -> Any:
    if field.message_type is not None:
        return as_json(value)
    return name_of(field, value) if field.enum_type is not None else value


def name_of(field: Any, number: int) -> str:
    """An enum value's name, or its number if this server doesn't know it."""
    known = field.enum_type.values_by_number.get(number)
    return known.name if known else str(number)


def data_type(tensor: Any) -> str:
    """The name of a message's `data_type`."""
    return name_of(tensor.DESCRIPTOR.fields_by_name["data_type"], tensor.data_type)


def set_data_type(tensor: Any, name: str) -> None:
    tensor.data_type = tensor.DESCRIPTOR.fields_by_name["data_type"].enum_type.values_by_name[name].number
