"""Answers as a Pipeline's last step does: texts by key. `given` says what came; `fail` and `raise` ask for errors."""

import time
from typing import Any


def handle(data: list[dict[str, Any]] | None, context: Any) -> Any:
    return None if data is None else [_answer(row, idx, context) for idx, row in enumerate(data)]


def _answer(row: dict[str, Any], idx: int, context: Any) -> Any:
    if "fail" in row:
        context.set_response_status(400, idx=idx)
        context.set_response_header(idx, "x-pipeline-err-no", row["fail"])
        return "keine Häuser"
    if "sleep" in row:
        time.sleep(float(row["sleep"]))
    if "raise" in row:
        raise ValueError(row["raise"])
    if "words" in row:
        return row["words"]
    given = {name: _described(value) for name, value in row.items()}
    client = [context.get_request_header(idx, f"x-pipeline-{what}") for what in ("logid", "clientip")]
    return {"price": "[[1.0]]", "given": given, "client": str(client), "rows": [0.5, True, None]}


def _described(value: Any) -> str:
    if isinstance(value, bytes | bytearray):
        return f"{len(value)} bytes"
    return f"{value.dtype} {value.tolist()}" if hasattr(value, "dtype") else value
