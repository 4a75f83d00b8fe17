"""Answers piece by piece: `count` numbers, then "end" or `last` bytes; may wait for a file, raise or die meanwhile.

With `size`, each number has so many spaces behind it.
"""

import os
import time
from pathlib import Path
from typing import Any

from pdserver.handlers.base import send_intermediate_predict_response
from pdserver.handlers.runtime.parts import opened


def handle(data: list[dict[str, Any]] | None, context: Any) -> Any:
    if data is None:
        return None
    rows = [opened(row["body"]) for row in data]
    for idx, row in enumerate(rows):
        if "content_type" in row:
            context.set_response_content_type(idx, row["content_type"])
    for number in range(max(row["count"] for row in rows)):
        pieces = [f"{number} " + " " * row.get("size", 0) if number < row["count"] else None for row in rows]
        send_intermediate_predict_response(pieces, context.request_ids, "ok", 200, context)
        for row in rows:
            while "go" in row and not Path(row["go"]).exists():
                time.sleep(0.005)
    if any("raise" in row for row in rows):
        raise ValueError("after the pieces")
    if any("die" in row for row in rows):
        os._exit(1)
    return [bytes(row["last"]) if "last" in row else "end" for row in rows]
