"""The configuration as bytes, for another process of the same server."""

from __future__ import annotations

import dataclasses
import ipaddress
import re
import typing
from pathlib import Path
from typing import Any

import msgspec

from pdserver.configuration.models_to_load import ModelsToLoad
from pdserver.configuration.server import Config
from pdserver.configuration.sources import AllowedUrls, Url


def encoded(config: Config) -> bytes:
    """All but what only the engine needs: which models to load and how, and their key."""
    shown = dataclasses.replace(
        config, given={}, models={}, load_models=ModelsToLoad(), model_snapshot=(), model_key=b"", ignored_keys=()
    )
    fields = {field.name: getattr(shown, field.name) for field in dataclasses.fields(shown)}
    return msgspec.msgpack.encode(fields, enc_hook=_text)


def decoded(data: bytes) -> Config:
    """What `encoded` has written."""
    kinds = typing.get_type_hints(Config)
    values = msgspec.msgpack.decode(data)
    return Config(**{name: _value(value, kinds[name]) for name, value in values.items()})


def _text(value: object) -> str:
    if isinstance(value, re.Pattern):
        return str(value.pattern)
    return str(value)  # paths and networks


def _value(value: Any, kind: Any) -> Any:
    if kind is AllowedUrls:  # networks are of one of two types, which msgspec does not tell apart
        networks = tuple(map(ipaddress.ip_network, value["networks"]))
        return AllowedUrls(msgspec.convert(value["prefixes"], tuple[Url, ...]), networks, value["key"])
    return msgspec.convert(value, kind, dec_hook=_of_text)


def _of_text(kind: Any, text: Any) -> Any:
    return Path(text) if kind is Path else re.compile(text)
