"""The access log: one line for each request, written a few times a second."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from functools import lru_cache

import orjson

from pdserver.configuration.server import Config
from pdserver.logs.batched import Batched, of_millisecond

Entry = tuple[float, str, bytes, bytes, int | str, float, str, str]
"""When (seconds since 1970), client, method, target, status, how many seconds it took, request id, model.

Method and status are HTTP's; or "gRPC" or "PRPC", and the name of its status or error code. The id and the
model may be empty.
"""
Access = Callable[[Entry], None]
"""Writes an entry."""
LOGGER = "pdserver.access"
_logger = logging.getLogger(LOGGER)
_MAX_SHOWN_BYTES = 512
_is_word = re.compile(rf"[!-~]{{1,{_MAX_SHOWN_BYTES}}}").fullmatch
_SECRET = re.compile(
    rb"((?:^|[?&])(?:[^?=&]*(?:token|key|secret|password|authorization|signature)[^?=&]*|sig)=)[^&]*", re.IGNORECASE
)
"""A parameter of a query whose name says that its value is secret. A name ends at the next `?`, so that a target of
many `?` is not looked through again from each of them."""
_USER = re.compile(rb"((?::|%3a)(?:/|%2f){2})(?:(?!/|%2f|[?&]).)+?(?=@|%40|\.\.\.$)", re.IGNORECASE)
"""In a URL that is a parameter, perhaps percent-encoded or cut: who asks, with a password."""
_INNER_QUERY = re.compile(rb"((?::|%3a)(?:/|%2f){2}[^?&]*?%3f)[^&]*", re.IGNORECASE)
"""In such a URL that is encoded: what may sign it."""


_VERSIONS = {b"gRPC": "HTTP/2.0", b"PRPC": "baidu_std"}
"""What is spoken, by what the entry has as its method; else HTTP/1.1."""
_PROBES = re.compile(
    rb"/(?:|ping|health|metrics|brpc_metrics|v2/health/(?:live|ready)|v2/models/[^/]+(?:/versions/[^/]+)?/ready"
    rb"|v1/models(?:/[^/]+)?"
    rb"|grpc\.health\.v1\.Health/(?:Check|Watch)|inference\.GRPCInferenceService/(?:Server(?:Live|Ready)|ModelReady)"
    rb"|org\.pytorch\.serve\.grpc\.inference\.InferenceAPIsService/Ping)/?(?:\?.*)?"
)
"""The calls that supervisors, balancers and Prometheus repeat all the time, by GET, HEAD or gRPC."""


class AccessLog(Batched[Entry]):
    """`add` takes an entry. It writes to the logger `pdserver.access`.

    Many finished lines make one log record. As text they are like TorchServe's: time, client, request, status and
    milliseconds, followed by id and model. With `each`, every request is a record of its own and has all this as
    attributes, for an operator's own formatters.
    """

    def __init__(self, *, json: bool = False, each: bool = False, probes: bool = True) -> None:
        """Without `probes`, successful health checks and scrapes get no line."""
        super().__init__(self._log)
        self._lines = _json_lines if json else _text_lines
        self._each = each
        self._probes = probes

    def _log(self, entries: list[Entry]) -> None:
        if not self._probes:
            entries = [entry for entry in entries if not (entry[4] in (200, "OK") and _is_probe(entry[2], entry[3]))]
        if not entries:
            return
        if self._each:
            for entry in entries:
                _logger.info("%s", _words(entry), extra=_fields(entry))
        else:
            _logger.info("%s", "\n".join(self._lines(entries)))


def access_log(config: Config) -> AccessLog | None:
    """None if no access log is wanted."""
    if not config.access_log:
        return None
    return AccessLog(
        json=config.log_format == "json", each=config.log_config is not None, probes=config.access_log_probes
    )


def _text_lines(entries: list[Entry]) -> list[str]:
    return [f"{of_millisecond(int(entry[0] * 1000))} - {_words(entry)}" for entry in entries]


def _json_lines(entries: list[Entry]) -> list[str]:
    return [_json_line({"time": of_millisecond(int(entry[0] * 1000)), **_fields(entry)}) for entry in entries]


def _json_line(fields: dict[str, str | int | float]) -> str:
    """JSON in ASCII, like the other logs. Some readers end a line at U+2028, U+2029 or U+0085, which JSON allows."""
    line = orjson.dumps(fields).decode()
    return line if line.isascii() else json.dumps(fields, separators=(",", ":"))


def _words(entry: Entry) -> str:
    _, client, method, target, status, seconds, own_id, model = entry
    id = own_id if _is_word(own_id) else _word(own_id)  # not cached: each request has its own
    return f"/{client} {_asked(method, target)} {status} {seconds * 1e3:.3f} {id} {_name(model)}"


def _fields(entry: Entry) -> dict[str, str | int | float]:
    _, client, method, target, status, seconds, own_id, model = entry
    return {
        "client": client,
        "method": _shown(method),
        "target": _shown(target),
        "status": status,
        "milliseconds": round(seconds * 1e3, 3),
        "request_id": _cut(own_id),
        "model": _cut(model),
    }


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_SHOWN_BYTES else text[:_MAX_SHOWN_BYTES] + "..."


def _word(text: str) -> str:
    """The text as one word, so that the next word can be told from it."""
    if not text or _is_word(text):
        return text or "-"
    return _clean(text.encode("utf-8", "backslashreplace")).replace(" ", "\\x20")


_name = lru_cache(maxsize=1024)(_word)


@lru_cache(maxsize=1024)
def _asked(method: bytes, target: bytes) -> str:
    version = _VERSIONS.get(method, "HTTP/1.1")
    return f'"{_shown(method)} {_shown(target)} {version}"'


@lru_cache(maxsize=1024)
def _is_probe(method: bytes, target: bytes) -> bool:
    return method in (b"GET", b"HEAD", b"gRPC") and _PROBES.fullmatch(target) is not None


@lru_cache(maxsize=1024)
def _shown(raw: bytes) -> str:
    return _clean(raw)


def _clean(raw: bytes) -> str:
    """What the client sent: in one line, cut, and without anything that looks like a secret."""
    if len(raw) > _MAX_SHOWN_BYTES:
        raw = raw[:_MAX_SHOWN_BYTES] + b"..."
    for secret in (_SECRET, _USER, _INNER_QUERY):
        raw = secret.sub(rb"\1***", raw)
    text = raw.decode("ascii", "backslashreplace")
    return text if text.isprintable() else ascii(text)[1:-1]
