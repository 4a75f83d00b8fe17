"""Gives back the body, last byte first."""

from typing import Any


def handle(data: list[dict[str, Any]] | None, context: Any) -> Any:
    return None if data is None else [bytes(row["body"])[::-1] for row in data]
