"""The file with the tokens: JSON, scope → a token, or an object as in TorchServe's key file.

    {"inference": {"key": "…"}, "management": {"key": "…"}, "admin": {"key": "…"}}

Beside `key` there may be `"expiration time": "2030-01-31T00:00:00Z"`, and `"previous": [{"key": "…", …}]`: tokens that
stay valid while clients change to the new one.
"""

from __future__ import annotations

import contextlib
import math
import os
import secrets
import stat
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import orjson

from pdserver.configuration.tokens import Scope, Token, new_token
from pdserver.errors import ConfigError
from pdserver.formats.values import shown
from pdserver.system.folders import make_folder

_MAX_BYTES = 64 * 1024
Content = dict[str, dict[str, Any]]
"""Scope → its entry, always as an object."""


def read(path: Path) -> Content:
    """Read the file. Raises ConfigError, which never repeats a token."""
    content = _parse(path, read_private(path, "token_file", _MAX_BYTES))
    for name in content:
        if name not in Scope._value2member_map_:
            raise ConfigError(f"token_file={path}: {shown(name)} is no scope: expected inference, management or admin")
    return content


def _parse(path: Path, data: bytes) -> Content:
    try:
        content = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise ConfigError(f"token_file={path}: not JSON ({where}); remove it, and a new one is made") from None
    if not isinstance(content, dict) or not content:
        raise ConfigError(f'token_file={path}: expected an object such as {{"inference": {{"key": "…"}}}}')
    return {name: entry if isinstance(entry, dict) else {"key": entry} for name, entry in content.items()}


def tokens(path: Path, content: Content) -> list[Token]:
    """The tokens in a file's content. Raises ConfigError."""
    try:
        return [token for name, entry in content.items() for token in _entry(entry, Scope(name))]
    except ValueError as error:
        raise ConfigError(f"token_file={path}: {error}") from None


def _entry(entry: Mapping[str, Any], scope: Scope) -> Iterator[Token]:
    if unknown := entry.keys() - {"key", "expiration time", "previous"}:
        raise ValueError(f"{shown(min(unknown))}: expected key, expiration time or previous for {scope.value}")
    key, previous = entry.get("key"), entry.get("previous", [])
    if not isinstance(key, str) or not isinstance(previous, list):
        raise ValueError(f"expected a key, and a list of previous ones if there are any, for {scope.value}")
    yield Token.of(key, scope, expires_at(entry))
    for older in previous:
        yield from _entry(older if isinstance(older, dict) else {"key": older}, scope)


def expires_at(entry: Mapping[str, Any]) -> float:
    """The expiration in seconds since 1970, or infinity. Raises ValueError."""
    text = entry.get("expiration time")
    if text is None:
        return math.inf
    try:
        time = datetime.fromisoformat(str(text).replace("Z", "+00:00"))
    except ValueError:
        raise ValueError("expected an expiration time such as 2030-01-31T00:00:00Z") from None
    return (time if time.tzinfo else time.replace(tzinfo=timezone.utc)).timestamp()


def new_entry(expires: float) -> dict[str, Any]:
    """A new token that expires at that time (seconds since 1970, or infinity)."""
    return {"key": new_token()} if expires == math.inf else {"key": new_token(), "expiration time": _text(expires)}


def with_new_key(content: Content, scope: Scope, expires: float, overlap_ends: float, now: float) -> Content:
    """`content` with a new token for `scope`. The replaced token stays valid until `overlap_ends`."""
    current = content.get(scope.value)
    entry = new_entry(expires)
    if current is not None:
        older = [current, *current.get("previous", [])]
        older = [each if isinstance(each, dict) else {"key": each} for each in older]
        ends = [min(expires_at(each), overlap_ends) for each in older]
        entry["previous"] = [
            {"key": each["key"], "expiration time": _text(end)}
            for each, end in zip(older, ends, strict=True)
            if end > now
        ]
    return {**content, scope.value: entry}


def _text(seconds: float) -> str:
    return datetime.fromtimestamp(math.ceil(seconds), timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def write(path: Path, content: Content) -> None:
    """Write the file whole or not at all, so that nobody else can ever read it. Raises ConfigError."""
    new = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        make_folder(path.parent, 0o700)
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, orjson.dumps(content, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
            os.fsync(fd)
        finally:
            os.close(fd)
        new.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            new.unlink()
        raise ConfigError(
            f"token_file={path}: cannot be written: {error.strerror}: name one in a folder of the server's user"
        ) from None


def read_private(path: Path, setting: str, limit_bytes: int) -> bytes:
    """Read a file that only its owner and group may access. Raises ConfigError."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise ConfigError(f"{setting}={path}: cannot be read: {error.strerror}") from None
    with os.fdopen(fd, "rb") as file:
        state = os.fstat(fd)
        if not stat.S_ISREG(state.st_mode) or state.st_size > limit_bytes:
            raise ConfigError(f"{setting}={path}: expected a file of at most {limit_bytes:,} bytes")
        if state.st_mode & 0o007:
            raise ConfigError(f"{setting}={path}: everybody on this machine may use it: chmod o= {path}")
        return file.read(limit_bytes)
