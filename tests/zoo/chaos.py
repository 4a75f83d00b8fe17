"""Does what each request asks of it: `{"op": …, "nonce": …}`. The answer echoes the nonce, the pid and the batch."""

import ctypes
import os
import sys
import time
from pathlib import Path
from typing import Any

from pdserver.errors import InvalidRequest
from pdserver.handlers.base import PredictionException
from pdserver.handlers.runtime.parts import opened


def handle(data: list[dict[str, Any]] | None, context: Any) -> Any:
    if data is None:
        return None
    rows = [body if isinstance(body := opened(row.get("body")), dict) else {} for row in data]
    answers: list[Any] = []
    for index, row in enumerate(rows):
        answers.append({"nonce": row.get("nonce"), "pid": os.getpid(), "batch": len(rows)})
        result = OPERATIONS[row.get("op", "echo")](row, context, index)
        if result is not None:
            answers[-1] = result
    if any(row.get("op") == "short" for row in rows):
        return answers[:-1]
    if any(row.get("op") == "not_a_list" for row in rows):
        return {"a": 1}
    return answers


def nothing(row: dict[str, Any], context: Any, index: int) -> Any:
    return None


def sleep(row: dict[str, Any], context: Any, index: int) -> Any:
    time.sleep(row["seconds"])


def wait_for(row: dict[str, Any], context: Any, index: int) -> Any:
    """Touch `begun`, then wait until `go` exists."""
    Path(row["begun"]).touch()
    while not Path(row["go"]).exists():
        time.sleep(0.005)


def fail(row: dict[str, Any], context: Any, index: int) -> Any:
    raise KeyError("the handler's own fault")


def fail_item(row: dict[str, Any], context: Any, index: int) -> Any:
    return InvalidRequest("this one is bad")


def fail_item_torchserve(row: dict[str, Any], context: Any, index: int) -> Any:
    context.set_response_status(507, "No Room", index)
    return "no room"


def prediction_exception(row: dict[str, Any], context: Any, index: int) -> Any:
    raise PredictionException("teapots only", 418)


def sys_exit(row: dict[str, Any], context: Any, index: int) -> Any:
    sys.exit("bye")


def exit_process(row: dict[str, Any], context: Any, index: int) -> Any:
    os._exit(3)


def exit_once(row: dict[str, Any], context: Any, index: int) -> Any:
    """Die with the first request that asks for it; the file says that it has been."""
    if not Path(row["mark"]).exists():
        Path(row["mark"]).touch()
        os._exit(3)


def segfault(row: dict[str, Any], context: Any, index: int) -> Any:
    ctypes.string_at(0)


def unserialisable(row: dict[str, Any], context: Any, index: int) -> Any:
    return {"a": object()}


def out_of_memory(row: dict[str, Any], context: Any, index: int) -> Any:
    raise MemoryError("no more")


def text(row: dict[str, Any], context: Any, index: int) -> Any:
    return "grüße"


def raw(row: dict[str, Any], context: Any, index: int) -> Any:
    return b"\x00\x01"


def nan(row: dict[str, Any], context: Any, index: int) -> Any:
    return {"x": float("nan")}


def headers(row: dict[str, Any], context: Any, index: int) -> Any:
    context.set_response_header(index, "x-from-handler", context.get_request_header(index, "X-To-Handler"))
    context.set_response_content_type(index, "text/csv")
    return "a,b"


def bad_header(row: dict[str, Any], context: Any, index: int) -> Any:
    context.set_response_header(index, "x-a", "b\r\nset-cookie: c=d")


def speak(row: dict[str, Any], context: Any, index: int) -> Any:
    print(row["text"])
    print(row["text"], file=sys.stderr)


def request_id(row: dict[str, Any], context: Any, index: int) -> Any:
    return context.get_request_id(index)


def header(row: dict[str, Any], context: Any, index: int) -> Any:
    return context.get_request_header(index, row["name"])


def parameters(row: dict[str, Any], context: Any, index: int) -> Any:
    return context.get_request_parameters(index)


def large(row: dict[str, Any], context: Any, index: int) -> Any:
    return bytes(row["bytes"])


OPERATIONS = {
    "echo": nothing,
    "short": nothing,
    "not_a_list": nothing,
    "sleep": sleep,
    "wait_for": wait_for,
    "fail": fail,
    "fail_item": fail_item,
    "fail_item_torchserve": fail_item_torchserve,
    "prediction_exception": prediction_exception,
    "sys_exit": sys_exit,
    "exit": exit_process,
    "exit_once": exit_once,
    "segfault": segfault,
    "unserialisable": unserialisable,
    "out_of_memory": out_of_memory,
    "text": text,
    "raw": raw,
    "nan": nan,
    "headers": headers,
    "bad_header": bad_header,
    "speak": speak,
    "request_id": request_id,
    "header": header,
    "large": large,
    "parameters": parameters,
}
