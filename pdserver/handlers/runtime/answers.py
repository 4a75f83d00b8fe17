"""What a handler answered → replies and failures."""

from __future__ import annotations

import contextlib
import errno
import logging
import re
import traceback
from collections.abc import Iterable
from typing import Any

import numpy as np
import orjson

from pdserver.errors import HandlerFailed, Kind, PdError
from pdserver.formats.values import listed, shown
from pdserver.handlers.context import Head
from pdserver.logs import marked as marked_lines
from pdserver.types import Failure, Outcome, Reply

_MOST_WORDS = 2000
"""The length of an exception's message for the client, in characters."""
_MOST_LOGGED = 8000
"""Its length for the log. It may repeat what a client sent, and a worker that writes megabytes hangs."""
_OPTIONS = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""A header's name: RFC 9110, 5.6.2."""

_SERVERS_OWN = frozenset(
    [
        "connection",
        "content-length",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ]
)
"""Headers about framing and connections, which only the server writes."""


class PredictionException(PdError):
    """Fails a request with this HTTP status and message. A handler raises it or puts it in the request's place."""

    def __init__(self, message: str, error_code: int = 500) -> None:
        super().__init__(message)
        self.message = message
        self.error_code = error_code


def failure(error: BaseException, ids: Iterable[str] = ()) -> Failure:
    """What the caller is told of `error`; the traceback of what nobody raised on purpose goes to the log, with the
    `ids` of the requests that it befell.

    Never raises: neither for what the handler's own exception class does, nor for what became of stderr.
    """
    if isinstance(error, PredictionException):
        status = getattr(error, "error_code", 500)
        said = text(getattr(error, "message", error)) or described(error)
        return Failure(Kind.HANDLER, said, status if _is_status(status) else 500)
    if isinstance(error, PdError):
        return Failure(error.kind if isinstance(error.kind, Kind) else Kind.HANDLER, text(error) or described(error))
    with contextlib.suppress(Exception):
        pieces = [
            piece if len(piece) <= _MOST_LOGGED else f"{piece[:_MOST_LOGGED]}…\n"
            for piece in traceback.format_exception(error)
        ]
        befallen = list(dict.fromkeys(ids))
        if befallen:
            pieces.insert(0, f"request{'s' if len(befallen) > 1 else ''} {listed(befallen)} failed:\n")
        marked_lines.write(logging.ERROR, "".join(pieces))
    return Failure(_kind(error), described(error))


def _kind(error: BaseException) -> Kind:
    if isinstance(error, MemoryError):
        return Kind.OUT_OF_MEMORY
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        return Kind.UNAVAILABLE  # another worker may have some left
    return Kind.HANDLER


def described(error: BaseException) -> str:
    """`ValueError: message`, or the type alone for an error without a message."""
    name, said = text(type(error).__name__), text(error)
    return f"{name}: {said}" if said else name


def text(value: object) -> str:
    """`value` as text that can be sent: shortened, without halves of surrogate pairs, or "" if its `str` fails."""
    try:
        said = str(value)
        if len(said) > _MOST_WORDS:  # usually something that a client sent; the log has more
            said = f"{said[:_MOST_WORDS]}…"
        return str.encode(said, "utf-8", "backslashreplace").decode()
    except BaseException:  # noqa: BLE001 - a handler's own class may fail even at this
        return ""


def counted(answers: Any, count: int) -> list[Any]:
    """The list of `count` answers that a handler returned. Raises HandlerFailed if it returned something else."""
    if not isinstance(answers, list):
        raise HandlerFailed(f"handler returned {type(answers).__name__}, not a list of answers, for a batch of {count}")
    if len(answers) != count:
        raise HandlerFailed(f"handler returned {len(answers)} answers for a batch of {count}")
    return answers


def outcome(answer: Any, head: Head | None, own_id: str = "") -> Outcome:
    """The outcome for one answer. Whatever is wrong with it is the Failure of this answer alone."""
    if isinstance(answer, BaseException):
        return failure(answer, [own_id] if own_id else ())
    try:
        data, content_type = body(answer)
        if head is None:
            return Reply(data, content_type)
        _check(head)
        headers = [(str(name), str(value)) for name, value in head.headers.items()]
        return Reply(data, str(head.content_type or content_type), int(head.status), str(head.reason), headers)
    except (TypeError, UnicodeEncodeError) as error:
        return Failure(Kind.HANDLER, f"the handler's answer cannot be sent: {error}")
    except BaseException as error:  # noqa: BLE001 - a value's own conversion is the handler's code
        return failure(error, [own_id] if own_id else ())


def refusal(reply: Reply) -> Failure:
    """The failure that a handler has said by a status of 400 or more alone."""
    kind = Kind.INVALID if reply.status < 500 else Kind.HANDLER
    return Failure(kind, bytes(reply.body).decode(errors="replace") or reply.reason, reply.status)


def body(answer: Any) -> tuple[bytes, str]:
    """One value as bytes, with their content type: of bytes, of text, else of JSON.

    Raises TypeError, UnicodeEncodeError or HandlerFailed for a value that can't be sent.
    """
    if isinstance(answer, str):
        return answer.encode(), "text/plain; charset=utf-8"
    if isinstance(answer, bytes | bytearray | memoryview):
        return bytes(answer), "application/octet-stream"
    try:
        return orjson.dumps(answer, _plain, orjson.OPT_SERIALIZE_NUMPY), "application/json"
    except TypeError:
        # Keys that are no text, and what orjson does not ask its `default` function about.
        return orjson.dumps(_with_plain_keys(answer), _plain, _OPTIONS), "application/json"


def _plain(value: Any) -> Any:
    """Convert what orjson does not write by itself: arrays of any layout or rank, and tensors."""
    if isinstance(value, np.ndarray | np.generic):
        if value.dtype.kind in "biufM" and value.ndim:
            return np.ascontiguousarray(value)
        if value.dtype.kind in "biufMUO":
            return value.tolist()
        raise TypeError
    if callable(numpy := getattr(value, "numpy", None)):
        return numpy()
    raise TypeError


def _with_plain_keys(value: Any) -> Any:
    """The same with Python's numbers for numpy's where they are keys, and with arrays in this machine's byte order.

    Raises HandlerFailed for keys that are one in JSON, such as 1 and "1".
    """
    if isinstance(value, dict):
        plain = {
            key.item() if isinstance(key, np.generic) else key: _with_plain_keys(item) for key, item in value.items()
        }
        _check_keys(plain)
        return plain
    if isinstance(value, list | tuple):
        return [_with_plain_keys(item) for item in value]
    if isinstance(value, np.ndarray):
        return value.astype(value.dtype.newbyteorder("="), copy=False)
    return value


def _check_keys(answer: dict[Any, Any]) -> None:
    if set(map(type, answer)) in ({str}, {int}):
        return
    by_text: dict[bytes, Any] = {}
    for key in answer:
        text = orjson.dumps({key: 0}, option=_OPTIONS)
        if text in by_text:
            keys = f"{shown(repr(by_text[text]))} and {shown(repr(key))}"
            raise HandlerFailed(f"the handler's answer has the keys {keys}, which are one in JSON: name them apart")
        by_text[text] = key


def _is_status(code: Any) -> bool:
    return isinstance(code, int) and 200 <= code <= 599


def _check(head: Head) -> None:
    """Raise HandlerFailed for anything that would break the response's head or add to it."""
    if not _is_status(head.status):
        raise HandlerFailed(f"the handler set status {shown(head.status)}: expected a number from 200 to 599")
    _check_value("the reason phrase", head.reason)
    _check_value("the content type", head.content_type)
    for name, value in head.headers.items():
        if not isinstance(name, str) or not _TOKEN.fullmatch(name):
            raise HandlerFailed(f'the handler set a header "{shown(name)}", which is not a valid name')
        if name.lower() in _SERVERS_OWN:
            raise HandlerFailed(f'the handler set the header "{name}", which is the server\'s to set')
        _check_value(f'the header "{name}"', value)


def _check_value(title: str, value: Any) -> None:
    if not isinstance(value, str) or re.search(r"[\x00-\x08\x0a-\x1f\x7f]|[^\x00-\xff]", value):
        raise HandlerFailed(
            f"the handler set {title} to {shown(repr(value))}: expected Latin-1 text without control characters"
        )
