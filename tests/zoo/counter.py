"""Adds up the numbers of each sequence; {"end": true} ends it."""

import os
from typing import Any

from pdserver.handlers.runtime.parts import opened

totals: dict[str, int] = {}


def handle(data: list[dict[str, Any]] | None, context: Any) -> Any:
    if data is None:
        return None
    names = [context.get_sequence_id(idx) for idx in range(len(data))]
    assert len(set(names)) == len(names), "a sequence has one request in a batch"
    answers = []
    for idx, (name, row) in enumerate(zip(names, data, strict=True)):
        if context.get_request_header(idx, context.header_key_sequence_start):
            totals[name] = 0
        totals[name] = totals.get(name, 0) + opened(row["body"])["add"]
        context.set_response_header(idx, context.header_key_sequence_id, name)
        if opened(row["body"]).get("end"):
            context.set_response_header(idx, context.header_key_sequence_end, name)
        answers.append({"total": totals[name], "pid": os.getpid(), "batch": len(data)})
    return answers
