"""For TorchServe: packed with torch-model-archiver."""

from __future__ import annotations

from typing import Any

from bench.model import load_from_environment

_loaded: list[Any] = []


def handle(data: list[dict[str, Any]] | None, context: Any) -> list[bytes] | None:
    """TorchServe calls it once without data, so that it loads the model."""
    if not _loaded:
        _loaded.append(load_from_environment())
    if data is None:
        return None
    model = _loaded[0]
    return model.answers([model.row(row["body"]) for row in data])
