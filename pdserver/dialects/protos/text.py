"""Messages in protobuf's text format, as configuration files have them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from google.protobuf import text_format

from pdserver.dialects.protos import POOL
from pdserver.errors import ConfigError
from pdserver.formats.values import nearest, shown

MAX_BYTES = 1024 * 1024
_UNKNOWN = re.compile(r'.*Message type "(?P<type>[\w.]+)" has no field named "(?P<field>\w+)"', re.DOTALL)
"""What protobuf says of a field that it does not know."""


def parse(text: str, message_class: Any, where: str) -> Any:
    """Read a message. Raises ConfigError with the line and column, and for an unknown field with the nearest one."""
    check_size(text, where)
    try:
        return text_format.Parse(text, message_class())
    except text_format.ParseError as error:
        raise ConfigError(f"{where}:{_told(error)}") from None
    except RecursionError:
        raise ConfigError(f"{where}: nested too deeply") from None


def read(path: Path, message_class: Any, where: str) -> Any:
    """Read a message from a file. Raises ConfigError."""
    return parse(content(path, where), message_class, where)


def content(path: Path, where: str) -> str:
    """The file's text. Raises ConfigError."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise ConfigError(f"{where}: larger than {MAX_BYTES} bytes")
        return data.decode()
    except OSError as error:
        raise ConfigError(f"{where}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{where}: not UTF-8 at byte {error.start}") from None


def check_size(text: str, where: str) -> None:
    """Raises ConfigError for more text than a configuration has."""
    if len(text) > MAX_BYTES:
        raise ConfigError(f"{where}: {len(text)} characters of configuration; at most {MAX_BYTES} are accepted")


def _told(error: text_format.ParseError) -> str:
    unknown = _UNKNOWN.match(str(error))
    if unknown is None:
        return shown(str(error))
    fields = POOL.FindMessageTypeByName(unknown["type"]).fields_by_name
    name = unknown["type"].rpartition(".")[2]
    place = f"{error.GetLine()}:{error.GetColumn()}"
    return f'{place} : {name} has no field "{shown(unknown["field"])}"{nearest(unknown["field"], fields)}'
