"""Says what it was given: each part's name, type and content."""

from typing import Any


def handle(data: list[dict[str, Any]] | None, context: Any) -> Any:
    if data is None:
        return None
    return [
        {
            name: [type(value).__name__, value.hex() if isinstance(value, bytes | bytearray) else value]
            for name, value in row.items()
        }
        for row in data
    ]
