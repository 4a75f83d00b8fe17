from __future__ import annotations

from typing import Any

Rows = list[dict[str, Any]]


def one(data: Rows | None, context: Any) -> list[Any] | None:
    return data and [{"item": row["item"]} for row in data]


def count(data: Rows | None, context: Any) -> list[Any] | None:
    return data and [{"count": len(row["items"])} for row in data]
