"""Tables of settings: a dataclass whose fields each say how their setting is written, parsed and documented.

A field declared by `setting` is the one place for its setting. The parser, the documentation, the flags, the describe
answer and the snapshots all follow from `table`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pdserver.formats.values import Given, T, ValueParser


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a table says of one setting."""

    field: str = ""
    """The dataclass's field."""
    name: str = ""
    """The key in files; it follows from the field's name unless TorchServe has another."""
    parse: ValueParser[Any, Any]
    default: Any
    """As it would be written; None: the field is None unless something is written."""
    help: str
    flag: str = ""
    """Of a server's key: its flag on the command line, where that is not the name with dashes."""
    parameter: str = ""
    """Of a model's setting: its parameter in calls that register or scale a model, whose snapshots have it, too."""
    fallback: str = ""
    """Of a model's setting: the server's key, or the other setting, that holds when no source says anything."""
    described: bool = False
    """Whether TorchServe's describe call tells it."""
    operators: bool = False
    """Whether only the operator may say it, and not a model's own YAML."""


def setting(parse: ValueParser[Given, T], default: Given | None, help: str, **more: Any) -> T:
    """A field of a table. `more` are further fields of `Setting`."""

    def value() -> Any:
        return None if default is None else parse(default)

    row = Setting(parse=parse, default=default, help=help, **more)
    field: T = dataclasses.field(default_factory=value, metadata={"setting": row})
    return field


def table(kind: type[Any], named: Callable[[str], str]) -> dict[str, Setting]:
    """The settings among a dataclass's fields, by their keys; `named` makes a key of a field's name without unit."""
    rows = {}
    for field in dataclasses.fields(kind):
        if row := field.metadata.get("setting"):
            name = row.name or named(field.name.removesuffix("_seconds"))
            flag = row.flag or f"--{name.replace('_', '-')}"
            rows[name] = dataclasses.replace(row, field=field.name, name=name, flag=flag)
    return rows


def camel_case(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(map(str.capitalize, others))
