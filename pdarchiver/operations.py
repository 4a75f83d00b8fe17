"""Checks that a Paddle model only computes: finds operations in its file that do more, without Paddle.

An attacker may make a file that looks harmless here but not to Paddle. So this check does not parse the file as Paddle
does, but sees more: every string of the JSON, wherever it is and however it is spelled, and every operation's type in
the protobuf, in every block, even where Paddle would reject the file. The check does not recurse, and it refuses a file
that takes too many steps.

The list of operations comes from the registries of Paddle 2.6 and 3.x. Candidates were found by name and by attributes:
an operation that uses a file or an address has a text that names it. Operations of dialects that are not Paddle's own
belong to a library. In .pdmodel they have no mark, but Paddle refuses operations that nobody has registered.

Sources: paddle/fluid/framework/framework.proto, paddle/fluid/pir/serialize_deserialize.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from typing import BinaryIO

from pdarchiver.errors import UnsafeModel
from pdarchiver.wire import WITH_LENGTH, field

REACHING = {
    r"save|save_combine|recv_save": "writes a file",
    r"load|load_combine|sparse_tensor_load|read_file": "reads a file",
    r"check_numerics": "writes what it finds to a folder that the model names",
    r"print": "writes what clients send to the server's log",
    r"py_\w+": "calls Python",
    r"run_program": "runs another program",
    r"fusion_group|cinn_\w+|ap_\w+": "runs code that is no operation of Paddle's",
    r"\w+_engine|ascend_trigger": "runs a part of the model in another engine",
    r"(c_)?gen_\w+_id|c_comm_init\w*|comm_init_all|(heter_)?listen_and_serv|rpc_\w+|send|recv|send_and_recv|prefetch|"
    r"send_barrier|fetch_barrier|checkpoint_notify|distributed_(lookup_table|push_sparse|notify)|(pull|push)_\w+": (
        "speaks to other machines"
    ),
}
"""Pattern for the whole name of an operation → what the operation does."""
_REACHING = [(re.compile(rf"({names})(_grad)?_?"), what) for names, what in REACHING.items()]
_OWN_DIALECTS = frozenset({"0", "1", "2", "4", "builtin", "pd_op", "cf", "dist_op"})
"""Names in the two formats of PIR. 3 is for custom operations."""
_PADDLES = ("1", "pd_op")
_MAX_BYTES = 128 * 1024 * 1024
"""Limit for a file that may be a program. Those of the largest models have some tens of megabytes."""
_MAX_STEPS = 10_000_000
_HEAD_BYTES = 64 * 1024
_MAX_NAME_BYTES = 2048
_BEFORE_JSON = b"\xef\xbb\xbf \t\r\n"
_ONLY_IN_MODELS = "base_code"
_ID = "#"
_BACKSLASH = ord("\\")
_MAX_KEY_BYTES = 20
"""A key with the length after it."""
_BLOCKS, _OPERATIONS, _TYPE = 1, 4, 3
"""Field numbers in ProgramDesc, BlockDesc and OpDesc."""


def check(file: BinaryIO) -> None:
    """Raises UnsafeModel if a file may be a Paddle model with an operation that does more than compute. Files that
    can't be a model pass: weights, pictures, texts."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(_HEAD_BYTES)
    looks = [look for may_be, look in ((_may_be_json, _in_json), (_may_be_desc, _in_desc)) if may_be(head, size)]
    if not looks:
        return
    if size > _MAX_BYTES:
        raise UnsafeModel(f"it may be a model, and is too large to be looked through ({size:,} bytes)")
    data = head + file.read()
    for look in looks:
        if problem := look(data, _Steps()):
            raise UnsafeModel(problem)


class _Steps:
    """A budget of steps."""

    def __init__(self) -> None:
        self._left = _MAX_STEPS

    def take(self) -> None:
        """Use up one step. Raises UnsafeModel if none is left."""
        self._left -= 1
        if self._left < 0:
            raise UnsafeModel("it may be a model, and has too many parts to be looked through")


def _problem(name: str) -> str:
    """Why an operation of Paddle's is refused. Empty if it is allowed."""
    what = next((what for pattern, what in _REACHING if pattern.fullmatch(name)), None)
    return f"its operation {name} {what}" if what else ""


# PIR


def _may_be_json(head: bytes, size: int) -> bool:
    start = head.lstrip(_BEFORE_JSON)
    return start[:1] == b"{" or (not start and size > len(head))


def _in_json(data: bytes, steps: _Steps) -> str:
    """Why the first forbidden operation is refused. Empty if there is none."""
    is_model, problem, before = False, "", ""
    for text in _strings(data, steps):
        is_model = is_model or text == _ONLY_IN_MODELS
        dialect, dot, name = text.partition(".")
        if dot and not problem:
            if dialect in _PADDLES:
                problem = _problem(name)
            elif before == _ID and dialect not in _OWN_DIALECTS:
                problem = f"its operation {text[:100]!r} is none of Paddle's own, but of a library"
        before = text
    return problem if is_model else ""


def _strings(data: bytes, steps: _Steps) -> Iterator[str]:
    """The strings of a JSON text, keys and values, in order. A long one is replaced by an empty one."""
    at = data.find(b'"')
    while at >= 0:
        steps.take()
        begin = at + 1
        end = data.find(b'"', begin)
        escaped = end >= 0 and data.find(b"\\", begin, end) >= 0
        while escaped and end >= 0 and _is_escaped(data, begin, end):
            steps.take()
            end = data.find(b'"', end + 1)
        if end < 0:
            return
        yield _text(data[begin:end], escaped) if end - begin <= _MAX_NAME_BYTES else ""
        at = data.find(b'"', end + 1)


def _is_escaped(data: bytes, begin: int, end: int) -> bool:
    """Whether there is an odd number of backslashes before the quotation mark at `end`."""
    first = end
    while first > begin and data[first - 1] == _BACKSLASH:
        first -= 1
    return (end - first) % 2 == 1


def _text(text: bytes, escaped: bool) -> str:
    if not escaped:
        return text.decode("latin-1")
    try:
        return str(json.loads(b'"%b"' % text, strict=False))
    except ValueError:
        return ""  # no JSON


# ProgramDesc


def _may_be_desc(head: bytes, size: int) -> bool:
    """Whether a file with this beginning may be a message."""
    data = memoryview(head)
    at = 0
    try:
        while at < len(head):
            _, _, at = field(data, at, size)
    except ValueError:
        return size > len(head) and at > len(head) - _MAX_KEY_BYTES  # it is cut off
    return size > 0


def _in_desc(data: bytes, steps: _Steps) -> str:
    """Why the first forbidden operation of any block is refused. Empty if there is none."""
    for block in _fields(memoryview(data), _BLOCKS, steps):
        for operation in _fields(block, _OPERATIONS, steps):
            for name in _fields(operation, _TYPE, steps):
                if problem := _problem(bytes(name[:_MAX_NAME_BYTES]).decode("latin-1")):
                    return problem
    return ""


def _fields(data: memoryview, number: int, steps: _Steps) -> Iterator[memoryview]:
    """Every value of a field with a length, until the message ends or turns out to be none."""
    at = 0
    try:
        while at < len(data):
            steps.take()
            key, begin, at = field(data, at, len(data))
            if key == number << 3 | WITH_LENGTH:
                yield data[begin:at]
    except ValueError:
        return
