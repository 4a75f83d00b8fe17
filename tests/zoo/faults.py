"""All that a handler can do wrong: `{"op": …, "nonce": …}`. Who lives answers with the nonce and its pid."""

import ctypes
import gc
import json
import os
import random
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pdserver.handlers.runtime.parts import opened


def handle(data: list[dict[str, Any]] | None, context: Any) -> Any:
    if data is None:
        return None
    rows = [body if isinstance(body := opened(row.get("body")), dict) else {} for row in data]
    answers: list[Any] = [{"nonce": row.get("nonce"), "pid": os.getpid(), "batch": len(rows)} for row in rows]
    for index, row in enumerate(rows):
        name = row.get("op")
        if name and not _was_here(row):
            result = OPERATIONS[name](row, context, index)
            if result is not None:
                answers[index] = result
    if any(row.get("op") == "change_batch" for row in rows):
        data.reverse()
        data.pop()
        if any(row.get("then") == "raise" for row in rows):
            raise ValueError("after it was changed")
    whole = next((row["whole"] for row in rows if "whole" in row), None)
    return answers if whole is None else WHOLE[whole](answers)


def _was_here(row: dict[str, Any]) -> bool:
    """With a `mark`, a file that is to be made, it happens once only."""
    mark = row.get("mark")
    if mark is None:
        return False
    if Path(mark).exists():
        return True
    Path(mark).touch()
    return False


# Ends


def die(row: dict[str, Any], context: Any, index: int) -> Any:
    os._exit(row.get("status", 3))


def kill_self(row: dict[str, Any], context: Any, index: int) -> Any:
    os.kill(os.getpid(), row["signal"])
    time.sleep(60)


def wait_for(row: dict[str, Any], context: Any, index: int) -> Any:
    """Write the pid to `begun`, then wait until `go` exists."""
    begun = Path(row["begun"])
    begun.with_suffix(".new").write_text(str(os.getpid()))
    begun.with_suffix(".new").rename(begun)
    while not Path(row["go"]).exists():
        time.sleep(0.005)


def spin(row: dict[str, Any], context: Any, index: int) -> Any:
    while True:
        pass


def sleep(row: dict[str, Any], context: Any, index: int) -> Any:
    time.sleep(row["seconds"])


def pause(row: dict[str, Any], context: Any, index: int) -> Any:
    """Blocked in C, with the interpreter's lock."""
    while True:
        ctypes.PyDLL(None).pause()


def base_exception(row: dict[str, Any], context: Any, index: int) -> Any:
    kinds: dict[str, type[BaseException]] = {
        "KeyboardInterrupt": KeyboardInterrupt, "GeneratorExit": GeneratorExit, "SystemExit": SystemExit,
    }  # fmt: skip
    raise kinds[row["kind"]]("bye")


def recurse(row: dict[str, Any], context: Any, index: int) -> Any:
    return recurse(row, context, index)


def recurse_in_c(row: dict[str, Any], context: Any, index: int) -> Any:
    sys.setrecursionlimit(10**9)
    deep: Any = []
    for _ in range(10**5):
        deep = [deep]
    repr(deep)


def out_of_memory(row: dict[str, Any], context: Any, index: int) -> Any:
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (1 << 20, before[1]))
    try:
        bytearray(1 << 31)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def leak(row: dict[str, Any], context: Any, index: int) -> Any:
    _leaked.append(os.urandom(1 << 20) * row["megabytes"])


_leaked: list[bytes] = []


# Children


def spawn(row: dict[str, Any], context: Any, index: int) -> Any:
    """A child that sleeps; `escape`: in a session of its own, left by its parent. Says its pid."""
    command = "sleep 1000 & echo $!" if row.get("escape") else "echo $$; exec sleep 1000"
    child = subprocess.Popen(["sh", "-c", command], stdout=subprocess.PIPE, start_new_session=bool(row.get("escape")))
    assert child.stdout is not None
    return {"nonce": row.get("nonce"), "child": int(child.stdout.readline()), "pid": os.getpid()}


def fork(row: dict[str, Any], context: Any, index: int) -> Any:
    """Both return."""
    os.fork()


def thread(row: dict[str, Any], context: Any, index: int) -> Any:
    threading.Thread(target=time.sleep, args=(1000,)).start()


# The channel, and other descriptors


def _channel() -> socket.socket:
    for fd in range(3, 256):
        try:
            sock = socket.socket(fileno=os.dup(fd))
        except OSError:
            continue
        if sock.family == socket.AF_UNIX:
            return sock
    raise AssertionError("there is no channel")


def garbage(row: dict[str, Any], context: Any, index: int) -> Any:
    _channel().sendall(b"Content-Type: text/plain\r\n\r\n")


def partial_frame(row: dict[str, Any], context: Any, index: int) -> Any:
    """Dies in the middle of an answer."""
    _channel().sendall(struct.pack("<4sIQ", b"pdw1", 0, 1_000_000) + bytes(500_000))
    os._exit(3)


def close_standard(row: dict[str, Any], context: Any, index: int) -> Any:
    for fd in range(3):
        os.close(fd)


def close_range(row: dict[str, Any], context: Any, index: int) -> Any:
    os.closerange(3, 1024)


def dup_over(row: dict[str, Any], context: Any, index: int) -> Any:
    """What the handler prints goes to the channel's descriptor from now on."""
    sock = _channel()
    for fd in range(3, 256):
        try:
            same = os.path.sameopenfile(fd, sock.fileno())
        except OSError:
            continue
        if same and fd != sock.fileno():
            os.dup2(1, fd)


def close_random(row: dict[str, Any], context: Any, index: int) -> Any:
    for fd in random.Random(7).sample(range(3, 64), 61):
        try:
            os.close(fd)
        except OSError:
            continue


# What it prints


def flood(row: dict[str, Any], context: Any, index: int) -> Any:
    for piece in (b"\x00\x1b[31m\xff" * 1000 + b"\n", b"x" * 1_000_000, b"\nshort\n" * 20_000):
        for fd in (1, 2):
            rest = memoryview(piece)
            while rest:
                rest = rest[os.write(fd, rest) :]


def imitate(row: dict[str, Any], context: Any, index: int) -> Any:
    print("[METRICS]Forged.Count:1|#Level:Host\n[PID]1\nTorch worker started.\npdw1", flush=True)


# What it changes


def change_process(row: dict[str, Any], context: Any, index: int) -> Any:
    os.chdir("/")
    os.umask(0o777)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGABRT, signal.SIG_IGN)
    sys.path.clear()
    sys.setrecursionlimit(200)
    random.seed(0)
    os.environ.clear()
    sys.stdout = sys.stderr = None
    gc.disable()


def patch_modules(row: dict[str, Any], context: Any, index: int) -> Any:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("patched by the handler")

    for module, name in (
        (json, "dumps"),
        (json, "loads"),
        (time, "sleep"),
        (os, "read"),
        (socket, "create_connection"),
    ):
        setattr(module, name, broken)


def nothing(row: dict[str, Any], context: Any, index: int) -> Any:
    return None


# Answers


def fail(row: dict[str, Any], context: Any, index: int) -> Any:
    raise KeyError("the handler's own fault")


def fail_item(row: dict[str, Any], context: Any, index: int) -> Any:
    return ValueError("this one is bad")


def answer(row: dict[str, Any], context: Any, index: int) -> Any:
    return ANSWERS[row["what"]]()


def circular() -> Any:
    value: list[Any] = []
    value.append(value)
    return value


ANSWERS: dict[str, Callable[[], Any]] = {
    "object": object,
    "function": lambda: handle,
    "circular": circular,
    "set": lambda: {1, 2},
    "large number": lambda: 10**100,
    "surrogate": lambda: "\ud800",
    "surrogate in JSON": lambda: {"a": "\ud800"},
    "bytes in JSON": lambda: {"a": b"b"},
    "not a number": lambda: {"x": float("nan")},
    "large": lambda: bytes(32 << 20),
    "many": lambda: [[0.5]] * 100_000,
}


def header(row: dict[str, Any], context: Any, index: int) -> Any:
    context.set_response_header(index, row["name"], row["value"])


def status(row: dict[str, Any], context: Any, index: int) -> Any:
    context.set_response_status(row["status"], row.get("reason", ""), index)


def content_type(row: dict[str, Any], context: Any, index: int) -> Any:
    context.set_response_content_type(index, row["value"])


def stream(row: dict[str, Any], context: Any, index: int) -> Any:
    """Pieces; then an exception, or more of them without end."""
    for number in range(3):
        context.send_intermediate([f"{number} "])
    if row["then"] == "raise":
        raise ValueError("after the pieces")
    while True:
        context.send_intermediate(["again "])
        time.sleep(0.01)


def ask_itself(row: dict[str, Any], context: Any, index: int) -> Any:
    request = urllib.request.Request(row["url"], b"{}", {"Content-Type": "application/json"})
    urllib.request.urlopen(request, timeout=30).read()


WHOLE: dict[str, Callable[[list[Any]], Any]] = {
    "one less": lambda answers: answers[:-1],
    "one more": lambda answers: [*answers, answers[0]],
    "none": lambda answers: [],
    "nothing": lambda answers: None,
    "text": lambda answers: "a" * len(answers),
    "generator": iter,
    "dict": lambda answers: dict(enumerate(answers)),
}
OPERATIONS: dict[str, Callable[[dict[str, Any], Any, int], Any]] = {
    function.__name__: function
    for function in (
        die, kill_self, wait_for, spin, sleep, pause, base_exception, recurse, recurse_in_c, out_of_memory, leak,
        spawn, fork, thread, garbage, partial_frame, close_standard, close_range, dup_over, close_random, flood,
        imitate, change_process, patch_modules, fail, fail_item, answer, header, status, content_type,
        stream, ask_itself,
    )
} | {"change_batch": nothing}  # fmt: skip
