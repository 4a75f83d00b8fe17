"""A stateful handler in steps: each request wants `count` pieces, one for each call; new ones may join at any step.

One with `begun` touches that file at its first step, and waits there until the file `go` exists.
"""

import time
from pathlib import Path
from typing import Any

from pdserver.handlers.runtime.parts import opened

left: dict[str, int] = {}


def handle(data: list[dict[str, Any]] | None, context: Any) -> Any:
    if data is None:
        return None
    answers = []
    for idx, row in enumerate(data):
        request_id = context.get_request_id(idx)
        if "body" in row:
            left[request_id] = opened(row["body"])["count"]
            if "begun" in opened(row["body"]):
                Path(opened(row["body"])["begun"]).touch()
                while not Path(opened(row["body"])["go"]).exists():
                    time.sleep(0.005)
        left[request_id] -= 1
        answers.append(f"{left[request_id]}/{len(data)} ")
        context.set_response_header(idx, "ts_stream_next", "true" if left[request_id] else "false")
    return answers
