"""A section of a model's own YAML → a frozen struct, with errors that say what to write instead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import msgspec

from pdserver.errors import ConfigError
from pdserver.formats.values import nearest, shown

Section = TypeVar("Section", bound=msgspec.Struct)


def read(
    kind: type[Section], name: str, config: Mapping[str, Any], defaults: Mapping[str, Any] | None = None
) -> Section:
    """Section `name` of the model's `config`, as a `kind`; `defaults` stand in for the keys that it leaves out.

    Raises ConfigError for a key that `kind` does not have and for a value of the wrong type or out of bounds.
    """
    section = config.get(name)
    section = {} if section is None else section
    if not isinstance(section, dict):
        raise ConfigError(f"{name}: expected a mapping of settings, found {shown(section)}")
    for key in section:
        if key not in kind.__struct_fields__:
            known = ", ".join(kind.__struct_fields__)
            raise ConfigError(
                f"{name}.{key}: unknown setting{nearest(str(key), kind.__struct_fields__)} (known: {known})"
            )
    settings = {**(defaults or {}), **section}
    for key, value in settings.items():
        _check(kind, name, key, value)
    try:
        return msgspec.convert(settings, kind)
    except msgspec.ValidationError as error:  # of a check that the struct does by itself, which names the setting
        raise ConfigError(f"{name}.{error}") from None


def _check(kind: type[msgspec.Struct], name: str, key: str, value: Any) -> None:
    # One setting at a time, so that the error can name it and show its value.
    (field,) = (field for field in msgspec.structs.fields(kind) if field.name == key)
    try:
        msgspec.convert(value, field.type)
    except msgspec.ValidationError as error:
        choices = _choices(field.type)
        expected = f"expected {_listed(choices)}{nearest(str(value), choices)}" if choices else str(error)
        raise ConfigError(f"{name}.{key}: {shown(value)}: {expected}") from None


def _listed(choices: Sequence[str]) -> str:
    return " or ".join(filter(None, (", ".join(choices[:-1]), choices[-1])))


def _choices(kind: Any) -> list[str]:
    """The values of a setting that has few, as YAML writes them; none if it may be something else."""
    if kind is bool:
        return ["true", "false"]
    if get_origin(kind) is Literal:
        return [str(value) for value in get_args(kind)]
    of_each = [_choices(part) for part in get_args(kind)] if get_origin(kind) in (Union, UnionType) else []
    return [choice for choices in of_each for choice in choices] if all(of_each) else []
