"""Can't be loaded."""

from typing import Any


def handle(data: Any, context: Any) -> Any:
    raise FileNotFoundError("the vocabulary is missing")
